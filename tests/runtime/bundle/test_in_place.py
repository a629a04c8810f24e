"""A bundle takes another's place whole, whoever is killed, and whoever else works there."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundle_helpers import toy_manifest, write_bundle
from stage_helpers import Heard

from pitstop import BundleError
from pitstop.runtime.bundle import in_place
from pitstop.runtime.bundle.folder import extended_bundle, new_bundle, open_bundle, write_manifest

TESTS = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "toy")


@pytest.mark.parametrize("stop", [OSError, KeyboardInterrupt])
def test_the_old_bundle_stays_when_the_last_rename_is_stopped(
    folder: Path, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    rename = Path.rename

    def stopped(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial") and not self.name.endswith(".old.partial"):
            raise stop
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stopped)
    monkeypatch.setattr(in_place, "_exchange", lambda one, other: False)
    with pytest.raises((BundleError, KeyboardInterrupt)):
        write_bundle(folder, toy_manifest(batch=8))

    assert open_bundle(folder).manifest.batch == 2
    assert [path.name for path in folder.parent.iterdir()] == ["toy"]


def test_what_a_dead_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".toy.9999999.partial").mkdir()  # of an older pitstop
    (tmp_path / ".toy.0123abcd.partial").mkdir()

    write_bundle(tmp_path / "toy")

    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


HOLDING = """
import sys
from pathlib import Path
from pitstop.runtime.bundle.in_place import held

with held(Path(sys.argv[1]), shared="shared" in sys.argv):
    print("held", flush=True)
    sys.stdin.readline()
    if "shared" in sys.argv:
        (Path(sys.argv[1]) / "engines").mkdir()
        (Path(sys.argv[1]) / "engines" / "late").touch()
"""


@contextlib.contextmanager
def another_process(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """One that holds a folder until it is told something."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        yield child


def let_go(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


def test_what_a_live_process_writes_and_what_others_left_is_kept(tmp_path: Path) -> None:
    kept = {".toy.01234567.partial", ".toy.a.01234567.partial", ".toy.x.partial"}
    for name in kept:
        (tmp_path / name).mkdir()

    with another_process(tmp_path / ".toy.01234567.partial"):
        write_bundle(tmp_path / "toy")

    assert {path.name for path in tmp_path.iterdir()} == {"toy", *kept}


def test_a_bundle_waits_for_who_works_in_the_old_one_and_takes_what_he_made(folder: Path) -> None:
    bundle, heard = open_bundle(folder), Heard()

    with another_process(folder, "shared") as child, extended_bundle(bundle, [], heard) as partial:
        write_manifest(partial, bundle.manifest)
        threading.Timer(0.2, let_go, [child]).start()

    open_bundle(folder)
    assert (folder / "engines" / "late").is_file()
    assert heard.stages == [f"waiting for the build of an engine in {folder.name}"]


def test_who_waits_for_nobody_says_nothing(folder: Path) -> None:
    bundle, heard = open_bundle(folder), Heard()

    with extended_bundle(bundle, [], heard) as partial:
        write_manifest(partial, bundle.manifest)

    assert heard.stages == []


KILLED = """
import os, signal, sys
from pathlib import Path
from bundle_helpers import toy_manifest, write_bundle
from stage_helpers import Heard

from pitstop.runtime.bundle import in_place

def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "exchanges":
    in_place.shutil.rmtree = die
else:
    in_place._exchange = lambda one, other: False
    rename = Path.rename
    Path.rename = lambda path, target: (
        rename(path, target) if target.name.endswith(".old.partial") else die()
    )
write_bundle(Path(sys.argv[1]), toy_manifest(batch=8))
"""


@pytest.mark.parametrize("way", ["exchanges", "renames twice"])
def test_a_bundle_is_there_whenever_its_replacement_is_killed(folder: Path, way: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), way],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL

    assert open_bundle(folder).manifest.batch == (8 if way == "exchanges" else 2)

    write_bundle(folder, toy_manifest(batch=4))
    assert [path.name for path in folder.parent.iterdir()] == ["toy"]


def test_a_bundle_that_is_on_its_way_is_not_put_back(folder: Path) -> None:
    moved = folder.with_name(".toy.01234567.old.partial")
    folder.rename(moved)

    with another_process(moved), pytest.raises(BundleError, match="is not a bundle"):
        open_bundle(folder)

    assert moved.is_dir()


def test_a_bundle_that_a_dead_process_had_moved_away_is_put_back(folder: Path) -> None:
    folder.rename(folder.with_name(".toy.9999999.old.partial"))

    with pytest.raises(RuntimeError), new_bundle(folder):
        raise RuntimeError

    open_bundle(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["toy"]
