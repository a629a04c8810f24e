"""benchmarks/gpu_floor.py: engines' estimated times beside what a GPU took."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorrt_helpers import import_trt

from pitstop.export.engines.build import BuildOptions, build_engines

CARD = "NVIDIA GeForce RTX 4090"


@pytest.fixture
def gpu_floor(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module."""
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    return importlib.import_module("gpu_floor")


def row(name: str, precision: str, **figures: float) -> SimpleNamespace:
    return SimpleNamespace(name=name, precision=precision, figures=figures)


def test_a_measured_row_of_engines_stands_beside_its_estimate(
    gpu_floor: Any, tiny_bundle: Path, tmp_path: Path
) -> None:
    import_trt()
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    build_engines(bundle, BuildOptions("tensorrt-rtx", "fp16", compute_capabilities=("8.9",)))
    rows = [
        row("tensorrt-rtx", "fp16", ms_per_step_median=1.25),
        row("tensorrt-rtx", "fp32", ms_per_step_median=2.0),
        row("torch eager", "fp16", ms_per_step_median=3.0),
    ]

    [line] = gpu_floor.judge(rows, bundle, CARD)

    assert line.startswith("tensorrt-rtx fp16: at least 0.")
    assert "1.25 measured; kernels bound by {" in line
    assert 0.05 < rows[0].figures["ms_per_step_estimated"] < 1
    assert "ms_per_step_estimated" not in rows[1].figures
    assert not list(gpu_floor.judge(rows, bundle, "NVIDIA Something Else"))
    assert not list(gpu_floor.judge([row("tensorrt-rtx", "fp16")], bundle, CARD))
