from __future__ import annotations

from typing import Any

import onnx_ir as ir
import pytest
from model_helpers import tiny_dit, tiny_pit
from pass_helpers import check_shapes, feeds_for, graph, noise, ops, traced, transposes

from pitstop.export.graph_pass import apply, apply_all
from pitstop.export.optimize import choose_steps
from pitstop.export.passes import BATCH_PROJECTIONS, MERGE_MOVES, PLACE_MAJOR
from pitstop.export.passes.fuse_attention import FUSE_ATTENTION
from pitstop.export.passes.window_major import WINDOW_MAJOR
from pitstop.graphs.weights import dims
from pitstop.models.denoiser import DenoiserConfig
from pitstop.models.pit import PswaConfig

# Two heads of three channels over four tokens of two images, as fuse_attention leaves them.
CUT = "qkv_q, qkv_k, qkv_v = Split<axis=2>(x, sizes) "
HEADS = "hq = Reshape(qkv_q, heads) hk = Reshape(qkv_k, heads) hv = Reshape(qkv_v, heads) "
TURN = (
    "q = Transpose<perm=[0, 2, 1, 3]>(hq) k = Transpose<perm=[0, 2, 3, 1]>(hk) "
    "v = Transpose<perm=[0, 2, 1, 3]>(hv) "
)
MIX = "s = MatMul(q, k) p = Softmax<axis=-1>(s) m = MatMul(p, v) "
OUT = "t = Transpose<perm=[0, 2, 1, 3]>(m) f = Reshape(t, flat) "
END = "y = ReduceMean<keepdims=1>(f, second)"
SIGNATURE = "(float[2, 4, 18] latent) => (float[2, 1, 6] y)"
WEIGHTS: dict[str, Any] = {
    "sizes": [6, 6, 6], "heads": [2, 4, 2, 3], "flat": [2, 4, 6], "second": [1]
}  # fmt: skip
FEEDS = {"latent": noise(2, 4, 18)}
ATTENTION = "x = Neg(latent) " + CUT + HEADS + TURN + MIX + OUT


def attention(body: str, **weights: Any) -> ir.Model:
    known = {**WEIGHTS, **weights}
    return graph(SIGNATURE, body, **{n: v for n, v in known.items() if n in body})


def test_all_sequences_become_heads_of_one_image() -> None:
    moved, report = apply(PLACE_MAJOR, attention(ATTENTION + END), FEEDS)

    assert report.rewritten == ("p",)
    [softmax] = [node for node in moved.graph if node.op_type == "Softmax"]
    assert dims(softmax.outputs[0]) == (1, 4, 4, 4)
    check_shapes(moved)


def test_what_looks_along_the_tokens_of_an_image_sees_them_as_before() -> None:
    moved, report = apply(PLACE_MAJOR, attention(ATTENTION + END), FEEDS)

    [mean] = [node for node in moved.graph if node.op_type == "ReduceMean"]
    assert dims(mean.inputs[0]) == (2, 4, 6)
    assert report.relative_l2 <= 1e-6


def test_what_is_told_for_each_image_reaches_its_rows() -> None:
    body = ATTENTION + "told = Neg(gain) g = Mul(f, told) y = ReduceMean<keepdims=1>(g, second)"

    moved, report = apply(PLACE_MAJOR, attention(body, gain=noise(2, 1, 6)), FEEDS)

    [product] = [node for node in moved.graph if node.op_type == "Mul"]
    assert dims(product.outputs[0]) == (4, 2, 1, 6)
    assert report.relative_l2 <= 1e-6


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("p = Softmax<axis=-1>(s)", "b = Add(s, bias) p = Softmax<axis=-1>(b)", "for each head"),
        ("m = MatMul(p, v)", "a = Mul(p, gain) m = MatMul(a, v)", "its softmax is modulated"),
        ("s = MatMul(q, k)", "n = Relu(q) s = MatMul(n, k)", "not cut by fuse_attention"),
        (OUT, "t = Transpose<perm=[2, 0, 1, 3]>(m) f = Reshape(t, flat) ", "side by side again"),
    ],
)
def test_another_attention_is_left_alone_and_why_is_told(old: str, new: str, why: str) -> None:
    other = attention((ATTENTION + END).replace(old, new), bias=noise(1, 2, 4, 4), gain=[2.0])

    moved, report = apply(PLACE_MAJOR, other, FEEDS)

    assert report.rewritten == ()
    assert why in report.skipped["p"]
    assert ops(moved) == ops(other)


@pytest.mark.parametrize(
    "config",
    [
        tiny_dit(depth=2),
        tiny_pit(depth=2),
        tiny_pit(depth=2, pswa=PswaConfig(4, rel_pos_bias=True)),
    ],
    ids=["dit", "pit", "with a bias"],
)
def test_a_networks_blocks_answer_as_before(config: Any) -> None:
    passes = (WINDOW_MAJOR, FUSE_ATTENTION, PLACE_MAJOR)

    _, (*_, report) = apply_all(passes, traced(config), feeds_for(config))

    biased = getattr(getattr(config, "pswa", None), "rel_pos_bias", False)
    assert len(report.rewritten) == (0 if biased else config.depth)
    assert report.relative_l2 <= 2e-6


def test_a_block_whose_window_is_another_keeps_its_tokens_order() -> None:
    config = tiny_pit(depth=3, pswa=PswaConfig(4), global_layers=(1,))
    passes = (WINDOW_MAJOR, FUSE_ATTENTION, PLACE_MAJOR)

    _, (*_, report) = apply_all(passes, traced(config), feeds_for(config))

    assert len(report.rewritten) == 2
    assert set(report.skipped.values()) == {
        "it sees a whole grid whose other attentions see windows"
    }


def test_a_dit_moves_tokens_where_they_begin_and_end_and_around_its_attention_alone() -> None:
    config: DenoiserConfig = tiny_dit(depth=2)
    passes = (FUSE_ATTENTION, PLACE_MAJOR, BATCH_PROJECTIONS, MERGE_MOVES)

    moved, _ = apply_all(passes, traced(config), feeds_for(config))

    assert len(transposes(moved)) == 4 * config.depth + 3  # channels last, rows, and to an image


def test_the_passes_for_engines_are_on_where_engines_are_built_and_off_on_cpus() -> None:
    passes = {"place_major", "batch_projections", "shift_taps", "row_gates", "merge_moves"}
    for target in ("tensorrt10", "tensorrt11", "tensorrt-rtx"):
        assert passes <= set(choose_steps(target, ()))
    for target in ("portable", "onnxruntime", "openvino"):
        assert not passes & set(choose_steps(target, ()))
        assert "place_major" in choose_steps(target, (), ["place_major"])
