"""In how many kernels an engine runs the demo's blocks, so that no change spoils it unseen."""

from __future__ import annotations

import numpy as np
from tensorrt_helpers import import_trt

from pitstop.export.engine_cost import built_kernels, by_block, cost_of
from pitstop.export.lowering.lower import LOW, lower
from pitstop.export.optimize import choose_steps, example_feeds, optimize
from pitstop.export.target import find_target
from pitstop.export.trace import load_source, manifest_for, trace

TARGET = "tensorrt-rtx"


def test_a_block_of_the_demo_in_fp16_is_eleven_kernels() -> None:
    import_trt()
    checkpoint = load_source("fashion")
    traced = trace(checkpoint.model, 2, find_target(TARGET).opset)
    feeds = example_feeds(manifest_for(checkpoint, "fashion", 2))
    wide = optimize(traced, feeds, choose_steps(TARGET, ())).graphs["denoiser.fp32"]
    call = {
        str(value.name): np.zeros(tuple(value.shape or ()), np.float32)
        for value in wide.graph.inputs
    }
    graph = lower(wide, LOW["fp16"], [call]).model
    kernels = built_kernels(graph, "8.9")

    assert cost_of(kernels).kernels == 71
    assert {name: len(found) for name, found in by_block(kernels).items() if name} == {
        "blocks.0": 12,
        **{f"blocks.{index}": 11 for index in range(1, 6)},
    }
