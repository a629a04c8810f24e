import configparser
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parent.parent
NOT_SHIPPED = {"tests", "benchmarks", "docs"}


def packages_in_the_tree() -> set[str]:
    inits = (path.relative_to(ROOT) for path in ROOT.glob("[!.]*/**/__init__.py"))
    folders = {init.parent.parts for init in inits if init.parts[0] not in {"build", "out"}}
    return {"pitstop", *(".".join(["pitstop", *folder]) for folder in folders)}


def packages_in_setup_cfg() -> set[str]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return set(config["options"]["packages"].split())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[PurePosixPath]:
    """The files of the wheel, with one more file among the weights."""
    source = tmp_path_factory.mktemp("source") / "pitstop"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "out")
    )
    (source / "models" / "weights").mkdir(exist_ok=True)
    (source / "models" / "weights" / "probe.safetensors").touch()
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist"]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (built,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return [PurePosixPath(name) for name in archive.namelist()]


def test_setup_cfg_lists_every_package_of_the_tree() -> None:
    """The list is kept by hand, and an editable install hides a package that was left out."""
    assert packages_in_setup_cfg() == packages_in_the_tree()


def test_no_package_is_a_folder_that_is_not_shipped() -> None:
    rooms = {name.split(".")[1] for name in packages_in_setup_cfg() if "." in name}
    assert not rooms & NOT_SHIPPED


def test_the_root_holds_no_python_but_its_init_and_the_command() -> None:
    assert sorted(path.name for path in ROOT.glob("*.py")) == ["__init__.py", "__main__.py"]


def test_the_wheel_holds_every_file_of_every_package(wheel: list[PurePosixPath]) -> None:
    packages = [name.split(".")[1:] for name in packages_in_setup_cfg()]
    files = {path for parts in packages for path in ROOT.joinpath(*parts).glob("*.py")}

    assert {"pitstop/" + path.relative_to(ROOT).as_posix() for path in files} == {
        str(path) for path in wheel if path.suffix == ".py"
    }


def test_the_wheel_holds_the_weights_the_types_and_the_licence(wheel: list[PurePosixPath]) -> None:
    names = {str(path) for path in wheel}
    beside = (
        *ROOT.glob("models/weights/*"),
        *ROOT.glob("evaluation/templates/*"),
        *ROOT.glob("server/*.html"),
    )
    shipped = {f"pitstop/{path.relative_to(ROOT).as_posix()}" for path in beside}

    assert names >= {"pitstop/py.typed", "pitstop/models/weights/probe.safetensors", *shipped}
    assert any(path.parts[-2:] == ("licenses", "LICENSE") for path in wheel)


def test_the_wheel_holds_nothing_but_the_package(wheel: list[PurePosixPath]) -> None:
    assert {path.parts[0] for path in wheel if ".dist-info" not in path.parts[0]} == {"pitstop"}
    assert not NOT_SHIPPED & {path.parts[1] for path in wheel}


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pitstop", "--version"], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("pitstop, version ")
