"""The walls of the house: what each room must never import."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pitstop

ROOT = Path(__file__).parent.parent
ROOMS = {
    "models",
    "runtime",
    "graphs",
    "export",
    "calibration",
    "forecast",
    "evaluation",
    "server",
    "cli",
}
HEAVY = {"torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "openvino"}

# Modules that must import where others cannot be imported: a room, or a file of one.
STANDS_WITHOUT = {
    "models": {"onnx", "onnx_ir", "onnxruntime", *(ROOMS - {"models"})},
    "runtime": {*HEAVY, *(ROOMS - {"runtime"})},
    "export": {"calibration", "evaluation", "cli"},
    "graphs": {"torch", *(ROOMS - {"graphs", "runtime"})},
    "export/__init__.py": {*HEAVY, *(ROOMS - {"export", "runtime"})},
    "export/engines": {*HEAVY, *(ROOMS - {"export", "runtime"})},
    "calibration": {"torch", *(ROOMS - {"calibration", "runtime", "graphs"})},
    "forecast": {*HEAVY, *(ROOMS - {"forecast", "runtime"})},
    "evaluation": {"cli", "server"},
    "server": {*HEAVY, *(ROOMS - {"server", "runtime"})},
    "cli": {*HEAVY, "numpy", *(ROOMS - {"cli", "runtime"})},
}

LOAD_TORCH = {"models", "export", "evaluation"}

# What a room imports beside the standard library and itself, inside functions too.
ALLOWED = {
    "models": {"torch", "numpy", "safetensors", "click", "rich"},
    "runtime": {"numpy", "PIL"},
    "graphs": {"numpy", "onnx_ir", "pitstop.runtime"},
    "export": {"numpy", "onnx", "onnx_ir", "pitstop.runtime", "pitstop.graphs"},
    "calibration": {"numpy", "onnx", "onnx_ir", "onnxruntime", "pitstop.runtime", "pitstop.graphs"},
    "forecast": {"numpy", "pitstop.runtime"},
    "evaluation": {
        "numpy",
        "PIL",
        "torch",
        *(f"pitstop.{room}" for room in ROOMS - {"cli", "server"}),
    },
    "server": {"numpy", "starlette", "uvicorn", "prometheus_client", "pitstop.runtime"},
    "cli": {"click", "rich", *(f"pitstop.{room}" for room in ROOMS - {"cli"})},
}
ALLOWED_IN_FILE = {
    "export/passes/simplify.py": {"onnxsim"},
    "export/trace.py": {"torch", "onnxscript", "pitstop.models"},
    "export/vae/trace.py": {"torch", "diffusers", "pitstop.models"},
    "models/hub.py": {"huggingface_hub", "yaml"},
    "models/hub_errors.py": {"huggingface_hub"},
    "runtime/pipeline.py": {"typing_extensions"},  # for mypy alone, which brings it
    "runtime/progress_bar.py": {"rich"},
    "runtime/devices/cuda.py": {"cuda"},
    "runtime/devices/onnx_device.py": {"onnxruntime"},
    "runtime/devices/engine_backend.py": {"tensorrt"},
    "runtime/devices/engine_build.py": {"tensorrt"},
    "runtime/devices/engine_session.py": {"tensorrt"},
    "evaluation/images/inception.py": {"torch_fidelity", "cleanfid"},
    "evaluation/speed/plot.py": {"matplotlib"},
    "evaluation/accuracy/blocks.py": {"onnx_ir"},
    "evaluation/accuracy/block_outputs.py": {"onnx_ir"},
    "evaluation/speed/matmul/graph.py": {"onnx", "ml_dtypes"},
    "evaluation/report/plots.py": {"matplotlib"},
    "evaluation/accuracy/quality.py": {"torch", "safetensors"},
    "evaluation/report/page.py": {"jinja2", "markupsafe", "PIL"},
    "evaluation/accuracy/ssim.py": {"skimage"},
}

WALK = """
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys({banned}))
module = importlib.import_module("{module}")
for found in pkgutil.walk_packages(getattr(module, "__path__", []), "{module}.") if {walk} else []:
    importlib.import_module(found.name)
"""


def rooms_that_exist() -> list[str]:
    return [room for room in sorted(ROOMS) if (ROOT / room / "__init__.py").exists()]


def places_that_exist() -> list[pytest.ParameterSet]:
    return [
        pytest.param(place, marks=[pytest.mark.slow] * (place in LOAD_TORCH))
        for place in STANDS_WITHOUT
        if (ROOT / place).exists()
    ]


@pytest.mark.parametrize("place", places_that_exist())
def test_room_stands_without_what_it_must_not_import(place: str) -> None:
    """Every file of the room imports in a fresh interpreter where the banned modules cannot."""
    banned = sorted(f"pitstop.{name}" if name in ROOMS else name for name in STANDS_WITHOUT[place])
    module = f"pitstop.{place}".removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    code = WALK.format(module=module, banned=banned, walk=(ROOT / place).is_dir())

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("room", rooms_that_exist())
def test_no_file_imports_what_its_room_may_not(room: str) -> None:
    """An import inside a function counts too: the fresh interpreter above never runs it."""
    files = sorted((ROOT / room).rglob("*.py"))
    found = [
        f"{path.relative_to(ROOT).as_posix()} imports {name}"
        for path in files
        for name in sorted(set(imports(path)))
        if not may_import(path, name)
    ]
    assert found == []


def test_no_thing_of_a_folder_of_like_things_imports_another() -> None:
    """A pass, sampler or backend stands alone: only its folder's ``__init__.py`` knows them all."""
    found = [
        f"{path.relative_to(ROOT).as_posix()} imports {name}"
        for folder in (
            "export/passes",
            "runtime/sampling/samplers",
            "runtime/backends",
            "calibration/methods",
        )
        for path in (ROOT / folder).glob("[!_]*.py")
        for name in imports(path)
        if name.startswith(f"pitstop.{folder.replace('/', '.')}.")
    ]
    assert found == []


def test_the_root_stands_on_the_standard_library_alone() -> None:
    """It holds the version and the errors, which every room raises."""
    code = "import sys; before = {*sys.modules}; import pitstop; print(*({*sys.modules} - before))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    tops = {name.split(".")[0] for name in done.stdout.split() if not name.startswith("__")}
    assert tops - sys.stdlib_module_names == {"pitstop"}
    seen = {name.split(".")[0] for name in imports(ROOT / "__init__.py")}
    assert seen - sys.stdlib_module_names == {"pitstop"}  # for mypy alone: of runtime


def test_no_room_goes_through_the_root_to_another() -> None:
    """What the root hands on when it is asked is for users."""
    lazy = {f"pitstop.{name}" for name in pitstop.LAZY}
    found = [
        f"{path.relative_to(ROOT).as_posix()} imports {name}"
        for room in rooms_that_exist()
        for path in (ROOT / room).rglob("*.py")
        for name in lazy.intersection(imports(path))
    ]
    assert found == []


def test_the_root_hands_on_what_it_names() -> None:
    assert {*pitstop.LAZY} <= {*pitstop.__all__} <= {*dir(pitstop)}
    assert {where.split(".")[1] for where in pitstop.LAZY.values()} == {"runtime"}
    for name in pitstop.__all__:
        assert getattr(pitstop, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Pipelin'"):
        _ = pitstop.Pipelin


def test_inside_the_package_imports_are_relative() -> None:
    """From the root of the repository ``import models`` works by accident: nothing may need it."""
    found = [
        f"{path.relative_to(ROOT).as_posix()} imports {name}"
        for room in rooms_that_exist()
        for path in (ROOT / room).rglob("*.py")
        for name in absolute_imports(ast.parse(path.read_text()))
        if name.split(".")[0] in {"pitstop", *ROOMS}
    ]
    assert found == []


def test_the_table_of_rooms_says_what_is_held_here() -> None:
    """CONTRIBUTING's row of a room names the rooms that it may import, here and there the same."""
    rows = re.findall(r"^\| `(\w+)/` \|.*\| (.*) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    table = {room: said for room, said in rows if room in ROOMS}

    assert set(table) == ROOMS
    for room, said in table.items():
        allowed = {name.removeprefix("pitstop.") for name in ALLOWED[room] if "pitstop." in name}
        if said.startswith("every room"):
            assert allowed | {"cli", room} | ({"server"} if "`server`" in said else set()) == ROOMS
        else:
            assert set(re.findall(r"`(\w+)`", said)) - {"models"} == allowed


def may_import(path: Path, name: str) -> bool:
    relative = path.relative_to(ROOT)
    room = relative.parts[0]
    top, *rest = name.split(".")
    if top == "pitstop":
        if not rest or rest[0] not in ROOMS:
            return True  # the root itself, for its version and the errors
        top = f"pitstop.{rest[0]}"
    elif top in sys.stdlib_module_names:
        return True
    elif relative.parts[:2] == ("runtime", "backends"):
        return top not in HEAVY or top == path.stem  # a backend's library, inside its own file
    allowed = ALLOWED[room] | ALLOWED_IN_FILE.get(relative.as_posix(), set())
    return top == f"pitstop.{room}" or top in allowed


def imports(path: Path) -> Iterator[str]:
    """The absolute name of all that a file imports, wherever in the file it does."""
    tree = ast.parse(path.read_text())
    yield from absolute_imports(tree)
    package = ["pitstop", *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            start = package[: len(package) - node.level + 1]
            start += node.module.split(".") if node.module else []
            yield from (".".join([*start, alias.name]) for alias in node.names)


def absolute_imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            assert node.module is not None
            yield node.module
