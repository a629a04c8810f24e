from __future__ import annotations

import pytest
from model_helpers import tiny_dit, tiny_pit
from pass_helpers import feeds_for, ops, traced
from rope_helpers import rope_feeds, rope_traced

from pitstop.export.graph_pass import apply_all
from pitstop.export.passes.attention_operators import MULTI_HEAD_ATTENTION, ONNX_ATTENTION
from pitstop.export.passes.fuse_attention import FUSE_ATTENTION
from pitstop.export.passes.window_major import WINDOW_MAJOR
from pitstop.export.trace import trace
from pitstop.models.checkpoint import build_model
from pitstop.models.denoiser import DenoiserConfig, initialize_at_random
from pitstop.models.pit import PswaConfig

PASSES = (WINDOW_MAJOR, FUSE_ATTENTION, MULTI_HEAD_ATTENTION)
WINDOWS = {"window_size": 4}


@pytest.mark.parametrize(
    "config",
    [
        tiny_pit(depth=2),
        tiny_pit(depth=2, pswa=PswaConfig(window_size=4, rel_pos_bias=True)),
        tiny_dit(depth=2),
    ],
    ids=["windows", "position bias", "dit"],
)
def test_attention_becomes_one_operator_and_its_transposes_go(config: DenoiserConfig) -> None:
    model = traced(config)

    fused, (*_, report) = apply_all(PASSES, model, feeds_for(config))

    assert len(report.rewritten) == 2
    assert ops(fused)["MultiHeadAttention"] == 2
    assert ops(fused)["Softmax"] == 0
    assert report.nodes_before["Transpose"] - report.nodes_after["Transpose"] == 8
    assert report.relative_l2 <= MULTI_HEAD_ATTENTION.tolerance


def test_a_norm_per_head_stays_decomposed_and_the_report_says_why() -> None:
    config = tiny_pit(depth=2, pswa=PswaConfig(window_size=4, qk_norm=True))

    fused, (*_, report) = apply_all(PASSES, traced(config), feeds_for(config))

    assert ops(fused)["Softmax"] == 2
    assert report.rewritten == ()
    assert all("normalised per head" in why for why in report.skipped.values())


def test_rope_stays_decomposed_and_the_report_says_why() -> None:
    model = rope_traced(normed=False)

    _, (*_, report) = apply_all([FUSE_ATTENTION, MULTI_HEAD_ATTENTION], model, rope_feeds())

    assert report.rewritten == ()
    assert set(report.skipped.values()) == {
        "q and k are turned by RoPE, for which the operator has no input"
    }


def test_without_fuse_attention_before_it_nothing_is_rewritten() -> None:
    config = tiny_pit(depth=2)

    fused, (report,) = apply_all([MULTI_HEAD_ATTENTION], traced(config), feeds_for(config))

    assert ops(fused)["MultiHeadAttention"] == 0
    assert len(report.skipped) == 2


def test_onnx_attention_waits_for_its_opset() -> None:
    config = tiny_pit(depth=2)

    _, (*_, report) = apply_all([FUSE_ATTENTION, ONNX_ATTENTION], traced(config), feeds_for(config))

    assert report.rewritten == ()
    assert set(report.skipped.values()) == {"the graph's opset is below 23"}


@pytest.mark.parametrize("bias", [False, True])
def test_onnx_attention_takes_the_scores_bias_as_its_mask(bias: bool) -> None:
    config = tiny_pit(depth=2, pswa=PswaConfig(window_size=4, rel_pos_bias=bias))
    model = build_model(config)
    initialize_at_random(model, 0)

    fused, (*_, report) = apply_all(
        [WINDOW_MAJOR, FUSE_ATTENTION, ONNX_ATTENTION], trace(model, 2, 23), feeds_for(config)
    )

    attentions = [node for node in fused.graph if node.op_type == "Attention"]
    assert [len(node.inputs) for node in attentions] == [4 if bias else 3] * 2
    assert report.relative_l2 <= ONNX_ATTENTION.tolerance
