"""In how many kernels an engine runs the demo's blocks, so that no change spoils it unseen."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tensorrt_helpers import import_trt

from pitstop.calibration.qdq.placement import Placement, find_sites
from pitstop.calibration.qdq.quantize import quantize
from pitstop.export.engine_cost import built_kernels, by_block, cost_of
from pitstop.export.lowering.kept_fp32 import rules_for
from pitstop.export.lowering.lower import LOW, lower
from pitstop.export.optimize import choose_steps, example_feeds, optimize
from pitstop.export.target import find_target
from pitstop.export.trace import load_source, manifest_for, trace
from pitstop.runtime.bundle.precision import INT8

TARGET, BLOCK = "tensorrt-rtx", "blocks.2"


@pytest.fixture(scope="module")
def graphs() -> tuple[ir.Model, ir.Model]:
    """The demo's denoiser in fp32 and fp16."""
    import_trt()
    checkpoint = load_source("fashion")
    traced = trace(checkpoint.model, 2, find_target(TARGET).opset)
    feeds = example_feeds(manifest_for(checkpoint, "fashion", 2))
    wide = optimize(traced, feeds, choose_steps(TARGET, ())).graphs["denoiser.fp32"]
    call = {
        str(value.name): np.zeros(tuple(value.shape or ()), np.float32)
        for value in wide.graph.inputs
    }
    rules = rules_for(LOW["fp16"], find_target(TARGET))
    return wide, lower(wide, LOW["fp16"], [call], rules=rules).model


def test_a_block_of_the_demo_in_fp16_is_nine_kernels(graphs: tuple[ir.Model, ir.Model]) -> None:
    kernels = built_kernels(graphs[1], "8.9")

    assert cost_of(kernels).kernels == 59
    assert cost_of(kernels).moves == 2  # the latent in, the image out
    assert {name: len(found) for name, found in by_block(kernels).items() if name} == {
        **{f"blocks.{index}": 9 for index in range(5)},
        "blocks.5": 10,  # and the final layer's norm
    }


@pytest.mark.parametrize(
    ("placement", "inputs", "kernels", "matmuls"),
    [
        (Placement(), 3, 10, {"Int8": 3, "Half": 3}),
        (Placement(attention=True), 7, 12, {"Int8": 4, "Half": 2}),
    ],
    ids=["linears", "attention too"],
)
def test_no_quantization_of_a_block_is_a_kernel_of_its_own(
    graphs: tuple[ir.Model, ir.Model],
    placement: Placement,
    inputs: int,
    kernels: int,
    matmuls: dict[str, int],
) -> None:
    wide, base = graphs
    sites = find_sites(wide.graph, placement.settled(TARGET)).found
    constants = wide.graph.initializers.items()
    weights = {name: one.const_value for name, one in constants if one.const_value is not None}

    built = built_kernels(
        quantize(base, weights, sites, {site.tensor: 4.0 for site in sites}, INT8, INT8), "8.9"
    )

    block = cost_of(by_block(built)[BLOCK])
    assert len(sites) == 6 * inputs
    assert cost_of(built).quantizations == 0
    assert (block.kernels, block.matmuls) == (kernels, matmuls)
