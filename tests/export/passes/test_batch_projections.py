from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from model_helpers import tiny_dit, tiny_pit
from numpy.testing import assert_array_equal
from pass_helpers import feeds_for, traced

from pitstop.export.graph_pass import apply, apply_all
from pitstop.export.passes import BATCH_PROJECTIONS, PLACE_MAJOR
from pitstop.export.passes.fold_bridge import FOLD_BRIDGE
from pitstop.export.passes.fuse_attention import FUSE_ATTENTION
from pitstop.export.passes.window_major import WINDOW_MAJOR
from pitstop.graphs.weights import Weight, constant
from pitstop.models.pit import PccaConfig

BEFORE = (FOLD_BRIDGE, WINDOW_MAJOR, FUSE_ATTENTION, PLACE_MAJOR)


def batches(model: Any) -> list[Weight]:
    weights = [constant(node.inputs[1]) for node in model.graph if node.op_type == "MatMul"]
    return [weight for weight in weights if weight is not None and weight.ndim == 3]


@pytest.mark.parametrize(
    ("config", "parts"), [(tiny_dit(depth=2), 2), (tiny_pit(depth=2), 3)], ids=["dit", "pit"]
)
def test_each_block_has_one_batch_and_answers_as_before(config: Any, parts: int) -> None:
    model, (*_, report) = apply_all((*BEFORE, BATCH_PROJECTIONS), traced(config), feeds_for(config))

    assert len(report.rewritten) == config.depth
    assert [len(weight) for weight in batches(model)] == [parts] * config.depth
    assert report.relative_l2 <= 2e-6


def test_k_and_v_read_no_channel_of_the_bridge_and_the_bridge_no_other() -> None:
    config = tiny_pit(depth=1, pcca=PccaConfig("const", (0.5,)))

    model, _ = apply_all((*BEFORE, BATCH_PROJECTIONS), traced(config), feeds_for(config))

    [batch] = batches(model)
    attended = batch.shape[2]
    key, value, bridge = batch
    assert not key[attended:].any()
    assert not value[attended:].any()
    width = len(bridge) - attended
    assert_array_equal(bridge[attended:, :width], np.eye(width))
    assert bridge.sum() == width


def test_a_bridge_wider_than_the_attention_is_fed_as_before() -> None:
    config = tiny_pit(depth=1, num_heads=4, pcca=PccaConfig("const", (0.25,)))

    model, (*_, report) = apply_all((*BEFORE, BATCH_PROJECTIONS), traced(config), feeds_for(config))

    assert [len(weight) for weight in batches(model)] == [2]
    assert report.relative_l2 <= 2e-6


def test_without_rows_it_leaves_an_attention_alone_and_says_what_it_needs() -> None:
    config = tiny_dit(depth=1)
    fused, _ = apply(FUSE_ATTENTION, traced(config), feeds_for(config))

    _, report = apply(BATCH_PROJECTIONS, fused, feeds_for(config))

    assert report.rewritten == ()
    [why] = report.skipped.values()
    assert "not cut from one linear" in why or "place_major makes" in why
