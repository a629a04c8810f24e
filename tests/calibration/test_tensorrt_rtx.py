"""The int8 graphs on the real TensorRT-RTX: its parser and builder need no GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from calibration_helpers import denoiser, feeds_of, sites_of
from model_helpers import tiny_dit, tiny_pit
from tensorrt_helpers import complaints_and_plan, import_trt

from pitstop.calibration.qdq.channels import find_scalable
from pitstop.calibration.qdq.quantize import quantize
from pitstop.calibration.qdq.smoothing import apply_smoothing, choose_factors, smooth
from pitstop.export.lowering.lower import LOW, lower
from pitstop.models.denoiser import DenoiserConfig
from pitstop.models.pit import PccaConfig, PswaConfig
from pitstop.runtime.bundle.precision import INT8

ADDED = tiny_pit(depth=2, pcca=PccaConfig("const", (1.0,)), pswa=PswaConfig(4, merge="add_proj"))


@pytest.fixture(scope="session")
def trt() -> Any:
    return import_trt()


@pytest.mark.parametrize(
    ("config", "base", "attention"),
    [
        (tiny_pit(depth=2), "fp16", False),
        (tiny_pit(depth=2), "fp32", True),
        pytest.param(tiny_pit(depth=2), "fp16", True, marks=pytest.mark.slow),
        pytest.param(tiny_dit(depth=2), "fp16", True, marks=pytest.mark.slow),
        pytest.param(ADDED, "fp16", False, marks=pytest.mark.slow),
    ],
    ids=["fp16", "fp32, attention", "fp16, attention", "dit", "add"],
)
def test_a_smoothed_int8_denoiser_parses_and_builds(
    trt: Any, config: DenoiserConfig, base: str, attention: bool
) -> None:
    exact = denoiser(config, "tensorrt-rtx")
    model = exact if base == "fp32" else lower(exact, LOW[base], [feeds_of(exact)]).model
    found = find_scalable(exact.graph)
    sizes = {one.tensor: np.linspace(1, 3, one.readers[-1].stop) for one in found}
    smoothed = smooth(exact.graph, choose_factors(exact.graph, sizes))
    weights = {
        name: value.const_value
        for name, value in apply_smoothing(exact, smoothed).graph.initializers.items()
        if value.const_value is not None
    }
    sites = sites_of(exact, attention=attention)
    thresholds = {site.tensor: 3.0 for site in sites}

    low = quantize(apply_smoothing(model, smoothed), weights, sites, thresholds, INT8, INT8)

    complaints, plan = complaints_and_plan(trt, low)
    assert complaints == []
    assert len(plan) > 0
