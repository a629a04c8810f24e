"""For the tests of the calibration: folded denoisers, what they are fed, and how they run."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
from pass_helpers import Array, feeds_for, noise, traced
from pass_helpers import graph as parsed

from pitstop.calibration.pipeline import calibrate_bundle
from pitstop.calibration.qdq.placement import Placement, Site, find_sites
from pitstop.calibration.recipe import CalibrationReport, Recipe
from pitstop.export.optimize import choose_steps, optimize
from pitstop.models.denoiser import DenoiserConfig
from pitstop.runtime.backend import SessionOptions

ONE_THREAD = SessionOptions("CPUExecutionProvider", threads=1)
QUICK = Recipe(num=2, steps=4, cfg_scale=1.5)
INT8 = "graphs/denoiser.int8.onnx"
RANGES = "calibration/ranges.json"
SET = "calibration/set.npz"
COVERAGE = "calibration/coverage.json"
SITES = 10  # of the two blocks of `tiny_bundle`: qkv, bridge, projection, fc1 and fc2


def calibrate(
    folder: Path, *, paths: Mapping[str, Path] | None = None, **fields: Any
) -> CalibrationReport:
    """A calibration as quick as can be, but for ``fields`` of its recipe."""
    recipe = dataclasses.replace(QUICK, **fields)
    return calibrate_bundle(folder, recipe, options=ONE_THREAD, **(paths or {}))


def content(folder: Path) -> dict[str, bytes]:
    """The bytes of every file of a folder, by its path."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@functools.cache
def denoiser(
    config: DenoiserConfig, target: str = "portable", left_out: Sequence[str] = (), batch: int = 2
) -> ir.Model:
    """The fp32 denoiser that an export makes, once for all tests: they must not change it."""
    steps = choose_steps(target, left_out)
    return optimize(traced(config, batch), feeds_for(config, batch), steps).graphs["denoiser.fp32"]


def feeds_of(model: ir.Model) -> dict[str, Array]:
    """Noise for the inputs of a split denoiser, modulations around 1."""
    shapes = {str(value.name): value.shape.numpy() for value in model.graph.inputs}  # type: ignore[union-attr]
    return {
        name: noise(*shape, seed=1) + (1 if name == "modulation" else 0)
        for name, shape in shapes.items()
    }


def sites_of(model: ir.Model, **placement: Any) -> list[Site]:
    return find_sites(model.graph, Placement(**placement)).found


def two_linears(**weights: Any) -> ir.Model:
    """Two linears of 16 channels with a bias between, then a last one, which is never quantized."""
    constants = {
        "first.weight": noise(16, 16, seed=1),
        "first.bias": noise(16, seed=2),
        "second.weight": noise(16, 16, seed=3),
        "last.weight": noise(16, 16, seed=4),
    }
    return parsed(
        "(float[2, 16] x) => (float[2, 16] prediction)",
        """h = Relu(x) a = MatMul(h, "first.weight") b = Add(a, "first.bias")
        c = MatMul(b, "second.weight") prediction = MatMul(c, "last.weight")""",
        **{**constants, **weights},
    )
