from __future__ import annotations

from typing import Any

import onnx_ir as ir
import pytest
from model_helpers import tiny_dit, tiny_pit
from pass_helpers import check_shapes, feeds_for, graph, noise, ops, traced

from pitstop.export.graph_pass import apply, apply_all
from pitstop.export.optimize import choose_steps
from pitstop.export.passes.flat_heads import FLAT_HEADS
from pitstop.export.passes.fuse_attention import FUSE_ATTENTION
from pitstop.export.passes.window_major import WINDOW_MAJOR
from pitstop.models.pit import PswaConfig

# Two heads of three channels over four tokens of two images, as fuse_attention leaves them.
CUT = "qkv_q, qkv_k, qkv_v = Split<axis=2>(x, sizes) "
HEADS = "hq = Reshape(qkv_q, heads) hk = Reshape(qkv_k, heads) hv = Reshape(qkv_v, heads) "
TURN = (
    "q = Transpose<perm=[0, 2, 1, 3]>(hq) k = Transpose<perm=[0, 2, 3, 1]>(hk) "
    "v = Transpose<perm=[0, 2, 1, 3]>(hv) "
)
MIX = "s = MatMul(q, k) p = Softmax<axis=-1>(s) m = MatMul(p, v) "
OUT = "t = Transpose<perm=[0, 2, 1, 3]>(m) y = Reshape(t, flat)"
SIGNATURE = "(float[2, 4, 18] x) => (float[2, 4, 6] y)"
WEIGHTS: dict[str, Any] = {"sizes": [6, 6, 6], "heads": [2, 4, 2, 3], "flat": [2, 4, 6]}
FEEDS = {"x": noise(2, 4, 18)}


def attention(body: str = CUT + HEADS + TURN + MIX + OUT, **weights: Any) -> ir.Model:
    known = {**WEIGHTS, **weights}
    return graph(SIGNATURE, body, **{n: v for n, v in known.items() if n in body})


def test_images_and_heads_become_one_axis_and_q_k_and_v_are_moved_at_once() -> None:
    flat, report = apply(FLAT_HEADS, attention(), FEEDS)

    assert report.rewritten == ("p",)
    assert ops(flat)["Split"] == 1
    assert ops(flat)["Transpose"] == 3  # of all three, of k for the scores, and of what is mixed
    [softmax] = [node for node in flat.graph if node.op_type == "Softmax"]
    assert list(softmax.outputs[0].shape or ()) == [1, 4, 4, 4]
    check_shapes(flat)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("p = Softmax<axis=-1>(s)", "b = Add(s, bias) p = Softmax<axis=-1>(b)", "for each head"),
        ("m = MatMul(p, v)", "a = Mul(p, gain) m = MatMul(a, v)", "its softmax is modulated"),
        ("s = MatMul(q, k)", "n = Relu(q) s = MatMul(n, k)", "not cut by fuse_attention"),
        (OUT, "t = Transpose<perm=[2, 0, 1, 3]>(m) y = Reshape(t, flat)", "side by side again"),
    ],
)
def test_another_attention_is_left_alone_and_why_is_told(old: str, new: str, why: str) -> None:
    body = (CUT + HEADS + TURN + MIX + OUT).replace(old, new)
    other = attention(body, bias=noise(1, 2, 4, 4), gain=[2.0])

    flat, report = apply(FLAT_HEADS, other, FEEDS)

    assert report.rewritten == ()
    assert why in report.skipped["p"]
    assert ops(flat) == ops(other)


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
    passes = (WINDOW_MAJOR, FUSE_ATTENTION, FLAT_HEADS)

    _, (*_, report) = apply_all(passes, traced(config), feeds_for(config))

    biased = getattr(getattr(config, "pswa", None), "rel_pos_bias", False)
    assert len(report.rewritten) == (0 if biased else config.depth)
    assert report.relative_l2 <= 1e-6


def test_it_is_on_where_engines_are_built_and_off_on_cpus() -> None:
    for target in ("tensorrt10", "tensorrt11", "tensorrt-rtx"):
        assert "flat_heads" in choose_steps(target, ())
    for target in ("portable", "onnxruntime", "openvino"):
        assert "flat_heads" not in choose_steps(target, ())
        assert "flat_heads" in choose_steps(target, (), ["flat_heads"])
