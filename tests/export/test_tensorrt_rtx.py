"""The folded graphs on the real TensorRT-RTX: its parser and builder need no GPU."""

from __future__ import annotations

from typing import Any

import pytest
from low_helpers import calls_for, denoiser
from model_helpers import tiny_dit, tiny_pit
from pass_helpers import feeds_for, graph, network
from tensorrt_helpers import complaints_and_plan, import_trt

from pitstop.export.lowering.lower import LOW, lower
from pitstop.export.optimize import choose_steps, optimize
from pitstop.export.target import find_target
from pitstop.export.trace import trace
from pitstop.models.denoiser import DenoiserConfig
from pitstop.models.pit import BridgeConfig, PccaConfig, PswaConfig
from pitstop.models.presets import PRESETS

ALL = PccaConfig("const", (1.0,))
CONFIGS = {
    "defaults": tiny_pit(depth=2),
    "all of the bridge": tiny_pit(
        depth=1,
        pswa=PswaConfig(
            4, bridge=BridgeConfig("pool_dw", 9, norm="bn", act="gelu_tanh", highpass=True)
        ),
    ),
    "projected, normalised, biased": tiny_pit(
        depth=2,
        pswa=PswaConfig(4, "projected", rel_pos_bias=True, qk_norm=True),
        pcca=PccaConfig("rotate", (0.5,)),
    ),
    "added, one block global": tiny_pit(
        depth=2, pcca=ALL, global_layers=(1,), pswa=PswaConfig(4, merge="add_proj")
    ),
    "a bias that is looked up": tiny_pit(
        input_size=(16, 16),
        patch_size=1,
        depth=2,
        global_layers=(1,),
        pswa=PswaConfig(8, rel_pos_bias=True),
    ),
    "dit": tiny_dit(depth=2),
}
OTHERS = list(CONFIGS)[1:]


@pytest.fixture(scope="session")
def trt() -> Any:
    return import_trt()


def check(trt: Any, config: DenoiserConfig, target: str) -> None:
    model = trace(network(config), 2, find_target(target).opset)
    folded = optimize(model, feeds_for(config), choose_steps(target, ()))
    assert sorted(folded.graphs) == ["conditioner", "denoiser.fp32"]
    for name, part in folded.graphs.items():
        complaints, plan = complaints_and_plan(trt, part)
        assert complaints == [], name
        assert len(plan) > 0, name


@pytest.mark.parametrize(
    "name", ["defaults", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
)
def test_a_folded_pair_parses_and_builds_without_a_gpu(trt: Any, name: str) -> None:
    check(trt, CONFIGS[name], "tensorrt-rtx")


@pytest.mark.slow
def test_the_portable_pair_builds_too(trt: Any) -> None:
    check(trt, CONFIGS["defaults"], "portable")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pit-s-2", "dit-s-2"])
def test_a_real_size_builds_too(trt: Any, name: str) -> None:
    check(trt, PRESETS[name], "tensorrt-rtx")


def check_lowered(trt: Any, config: DenoiserConfig, name: str) -> None:
    lowered = lower(denoiser(config), LOW[name], calls_for(config))
    complaints, plan = complaints_and_plan(trt, lowered.model)
    assert complaints == []
    assert len(plan) > 0


@pytest.mark.parametrize("name", LOW)
@pytest.mark.parametrize(
    "config", ["defaults", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
)
def test_a_denoiser_in_low_precision_parses_and_builds(trt: Any, config: str, name: str) -> None:
    check_lowered(trt, CONFIGS[config], name)


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "name"), [("pit-s-2", "fp16"), ("dit-s-2", "bf16")])
def test_a_real_size_in_low_precision_builds_too(trt: Any, preset: str, name: str) -> None:
    check_lowered(trt, PRESETS[preset], name)


def test_what_tensorrt_cannot_read_is_complained_about(trt: Any) -> None:
    complaints, plan = complaints_and_plan(trt, graph("(float[2, 2] x) => (float y)", "y = Det(x)"))

    assert "Det" in complaints[0]
    assert plan == b""
