"""The module of each node, from the tracing through the passes into every precision."""

from __future__ import annotations

import functools

import numpy as np
import onnx_ir as ir
import pytest
from calibration_helpers import sites_of
from low_helpers import calls_for, denoiser
from model_helpers import tiny_edt, tiny_pit
from pass_helpers import feeds_for, graph, network, noise, traced

from pitstop.calibration.qdq.quantize import quantize
from pitstop.calibration.qdq.smoothing import Smoothed, apply_smoothing
from pitstop.export.graph_pass import apply
from pitstop.export.lowering.lower import LOW, lower
from pitstop.export.optimize import Optimized, choose_steps, optimize
from pitstop.export.passes.simplify import SIMPLIFY
from pitstop.graphs.blocks import name_blocks
from pitstop.graphs.rounding import rounded
from pitstop.graphs.scopes import modules_by_output, restore_modules
from pitstop.models.amm import AmmConfig
from pitstop.models.denoiser import DenoiserConfig
from pitstop.models.pit import BridgeConfig, PccaConfig, PswaConfig
from pitstop.runtime.bundle.precision import INT8

CONFIGS = {
    "a pit with all there is": tiny_pit(
        depth=2,
        pswa=PswaConfig(
            4,
            "projected",
            rel_pos_bias=True,
            qk_norm=True,
            bridge=BridgeConfig("pool_dw", norm="bn", act="silu", highpass=True),
        ),
        pcca=PccaConfig("rotate", (0.5,)),
        global_layers=(1,),
    ),
    "a sum": tiny_pit(
        depth=1, pcca=PccaConfig("const", (1.0,)), pswa=PswaConfig(4, merge="add_proj")
    ),
    "edt": tiny_edt(amm=AmmConfig((1,))),
}
TARGETS = {"portable": ("pad_heads",), "onnxruntime": ()}
CONFIG = tiny_pit(depth=2)


def check_modules(model: ir.Model, config: DenoiserConfig) -> None:
    """See that each node has its module, and those of the traced graph the one that they had."""
    modules, before = modules_by_output(model.graph), modules_by_output(traced(config).graph)
    assert len(modules) == len(model.graph)
    assert set(modules.values()) <= dict(network(config).named_modules()).keys()
    kept = {name for name in modules.keys() & before.keys() if not name.startswith("val_")}
    assert len(kept) > len(modules) / 4  # a number's name may come back for another value
    assert {name: modules[name] for name in kept} == {name: before[name] for name in kept}


@functools.cache
def folded(config: DenoiserConfig, target: str) -> Optimized:
    steps = choose_steps(target, (), TARGETS[target])
    return optimize(traced(config), feeds_for(config), steps)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_node_has_its_module_after_the_last_pass(config: DenoiserConfig, target: str) -> None:
    for model in folded(config, target).graphs.values():
        check_modules(model, config)


@pytest.mark.parametrize("left_out", [("simplify",), ("split",)])
def test_and_where_a_step_is_left_out(left_out: tuple[str, ...]) -> None:
    check_modules(denoiser(CONFIG, left_out), CONFIG)


@pytest.mark.parametrize("name", LOW)
def test_every_node_has_its_module_in_a_lower_precision_and_in_its_twin(name: str) -> None:
    low = lower(denoiser(CONFIG), LOW[name], calls_for(CONFIG)).model

    check_modules(low, CONFIG)
    check_modules(rounded(low, ir.DataType[LOW[name].dtype]), CONFIG)


def test_every_node_has_its_module_in_int8() -> None:
    model = denoiser(CONFIG)
    [shape] = [value.shape for value in model.graph.inputs if value.name == "modulation"]
    assert shape is not None
    ones = np.ones((1, *shape.numpy()[1:]), np.float32)
    smoothed = apply_smoothing(model, Smoothed({}, ones))
    constants = {name: v.const_value for name, v in model.graph.initializers.items()}
    sites = sites_of(model, attention=True)

    thresholds = {site.tensor: 1.0 for site in sites}
    made = quantize(smoothed, constants, sites, thresholds, INT8, INT8)  # type: ignore[arg-type]

    check_modules(made, CONFIG)
    blocks = {str(n.outputs[0].name): block for n, block in name_blocks(made.graph).items()}
    for node, block in name_blocks(model.graph).items():
        assert blocks[str(node.outputs[0].name)] == block


def test_onnxsim_drops_the_modules_and_they_are_noted_again() -> None:
    model = graph(
        "(float[2, 3] x) => (float[2, 3] y)",
        "s = Add(a, b) t = Add(x, s) y = Relu(t)",
        a=noise(3),
        b=noise(3, seed=1),
    )
    restore_modules(model.graph, {"s": "one", "t": "one", "y": "two"})

    simplified, _ = apply(SIMPLIFY, model, {"x": noise(2, 3)})

    assert modules_by_output(simplified.graph) == {"t": "one", "y": "two"}
