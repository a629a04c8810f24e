from __future__ import annotations

from typing import Any

import onnx_ir as ir
import pytest
from model_helpers import tiny_dit, tiny_pit
from numpy.testing import assert_allclose
from pass_helpers import as_text, feeds_for, graph, noise, ops, traced, transposes, weights_of

from pitstop.export.graph_pass import apply, apply_all
from pitstop.export.passes.fuse_attention import FUSE_ATTENTION, HEADS_FIRST
from pitstop.export.passes.window_major import WINDOW_MAJOR
from pitstop.graphs.scopes import restore_modules
from pitstop.models.pit import PccaConfig, PswaConfig
from pitstop.runtime.bundle.manifest import PassReport

# Attention of two heads of two channels over four tokens, as DiT's is traced.
LINEAR = "l = MatMul(x, w) r = Add(l, b) "
CUT = (
    "c = Reshape(r, heads) h = Transpose<perm=[2, 0, 3, 1, 4]>(c) "
    "q1 = Slice(h, i0, i1, i0) k1 = Slice(h, i1, i2, i0) v1 = Slice(h, i2, i3, i0) "
    "q = Squeeze(q1, i0) k = Squeeze(k1, i0) v = Squeeze(v1, i0) "
)
SCORES = "s = Mul(q, scale) t = Transpose<perm=[0, 1, 3, 2]>(k) a = MatMul(s, t) "
MIX = "p = Softmax<axis=-1>(a) y = MatMul(p, v) "
WHOLE = LINEAR + CUT + SCORES + MIX
SIGNATURE = "(float[1, 4, 3] x) => (float[1, 2, 4, 2] y)"
W, B = noise(3, 12, seed=1), noise(12, seed=2)
WEIGHTS: dict[str, Any] = {
    "w": W,
    "b": B,
    "heads": [1, 4, 3, 2, 2],
    "i0": [0],
    "i1": [1],
    "i2": [2],
    "i3": [3],
    "scale": 0.3,
}
NORM_SCALE, NORM_BIAS = noise(2, seed=3), noise(2, seed=4)
FEEDS = {"x": noise(1, 4, 3)}
CONFIG = tiny_pit(depth=2)


def attention(body: str = WHOLE, signature: str = SIGNATURE, **weights: Any) -> ir.Model:
    fed = signature.split("=>")[0]
    known = {**WEIGHTS, **weights}
    return graph(
        signature,
        body,
        **{name: array for name, array in known.items() if f" {name}" not in fed},
    )


def fuse(body: str = WHOLE, **weights: Any) -> tuple[ir.Model, PassReport]:
    return apply(FUSE_ATTENTION, attention(body, **weights), FEEDS)


def test_the_scale_moves_into_the_columns_of_q() -> None:
    fused, report = fuse()

    weights = weights_of(fused)
    assert "Mul" not in ops(fused)
    assert_allclose(weights["w_scaled"], [[*row[:4] * 0.3, *row[4:]] for row in W], rtol=1e-6)
    assert_allclose(weights["b_scaled"], [*B[:4] * 0.3, *B[4:]], rtol=1e-6)
    assert report.rewritten == ("p",)


def test_q_k_and_v_are_cut_once_and_transposed_once() -> None:
    fused, _ = fuse()

    assert ops(fused)["Split"] == 1
    assert ops(fused)["Slice"] == ops(fused)["Squeeze"] == 0
    assert sorted(transposes(fused)) == [(0, 2, 1, 3), (0, 2, 1, 3), (0, 2, 3, 1)]


def test_the_linear_may_make_the_bridges_input_too() -> None:
    body = WHOLE.replace("(r, heads)", "(z, heads)").replace(
        "c = ", "z, rest = Split<axis=2>(r, sizes) c = "
    )
    signature = SIGNATURE.replace("y)", "y, float[1, 4, 2] rest)")
    weights = {"w": noise(3, 14, seed=1), "b": noise(14, seed=2), "sizes": [12, 2]}

    fused, report = apply(FUSE_ATTENTION, attention(body, signature, **weights), FEEDS)

    assert report.rewritten == ("p",)
    assert_allclose(weights_of(fused)["b_scaled"][4:], weights["b"][4:])


def test_where_q_is_normed_the_scale_moves_into_its_norm_alone() -> None:
    """The two norms share their weights: the one of k must not change."""
    norm = "LayerNormalization<axis=-1, epsilon=0.000001>({}, norm_scale, norm_bias) "
    body = (
        LINEAR
        + CUT
        + f"qn = {norm.format('q')} kn = {norm.format('k')}"
        + SCORES.replace("(q,", "(qn,").replace("(k)", "(kn)")
        + MIX
    )

    fused, report = fuse(body, norm_scale=NORM_SCALE, norm_bias=NORM_BIAS)

    weights = weights_of(fused)
    assert report.rewritten == ("p",)
    assert_allclose(weights["norm_scale_scaled"], NORM_SCALE * 0.3, rtol=1e-6)
    assert_allclose(weights["norm_bias_scaled"], NORM_BIAS * 0.3, rtol=1e-6)
    assert_allclose(weights["norm_scale"], NORM_SCALE)
    assert_allclose(weights["w"], W)


def test_a_weight_that_two_attentions_share_is_scaled_for_each_by_itself() -> None:
    names = ["l", "r", "c", "h", "q1", "k1", "v1", "q", "k", "v", "s", "t", "a", "p", "y"]
    second = WHOLE.replace("scale", "other")
    for name in names:
        second = second.replace(f"{name} =", f"{name}_ =")
        second = second.replace(f"({name})", f"({name}_)").replace(f"({name},", f"({name}_,")
        second = second.replace(f", {name})", f", {name}_)")
    signature = SIGNATURE.replace("y)", "y, float[1, 2, 4, 2] y_)")

    fused, report = apply(FUSE_ATTENTION, attention(WHOLE + second, signature, other=0.7), FEEDS)

    weights = weights_of(fused)
    assert report.rewritten == ("p", "p_")
    assert_allclose(weights["b_scaled"][:4], B[:4] * 0.3, rtol=1e-6)
    assert_allclose(weights["b_scaled_1"][:4], B[:4] * 0.7, rtol=1e-6)


@pytest.mark.parametrize(
    ("body", "weights", "why"),
    [
        (
            "a = Neg(h0) p = Softmax<axis=-1>(a) y = Identity(p)",
            {},
            "no matmul makes its scores, or none uses them",
        ),
        (
            WHOLE,
            {"scale": [[[0.3]], [[0.7]]]},
            "q is not scaled by one constant, or k is not transposed",
        ),
        (
            WHOLE.replace("a = MatMul(s, t)", "u = Mul(t, scale) a = MatMul(s, u)"),
            {},
            "k is scaled too",
        ),
        (
            WHOLE.replace("Mul(q, scale)", "Div(q, scale)"),
            {},
            "q is not scaled by one constant, or k is not transposed",
        ),
        (
            WHOLE.replace("MatMul(p, v)", "MatMul(p, x0)"),
            {},
            "q, k and v are not cut from one tensor [B, S, 3, H, d]",
        ),
        (
            WHOLE.replace("q1 = Slice(h, i0, i1, i0)", "q1 = Slice(h, i2, i3, i0)").replace(
                "v1 = Slice(h, i2, i3, i0)", "v1 = Slice(h, i0, i1, i0)"
            ),
            {},
            "its tensor does not hold q, k and v in this order",
        ),
        (
            WHOLE.replace("r = Add(l, b)", "r = Relu(l)"),
            {},
            "no linear with constant weights makes qkv",
        ),
    ],
    ids=[
        "no scores",
        "a scale per head",
        "k scaled",
        "no product",
        "v from elsewhere",
        "v first",
        "no linear",
    ],
)
def test_another_attention_stays_and_the_report_says_why(
    body: str, weights: dict[str, Any], why: str
) -> None:
    signature = SIGNATURE.replace("x)", "x, float[1, 2, 4, 2] x0, float[1, 2, 4, 2] h0)")
    model = attention(body, signature, **weights)
    before = as_text(model)

    fused, report = apply(
        FUSE_ATTENTION, model, {**FEEDS, "x0": noise(1, 2, 4, 2), "h0": noise(1, 2, 4, 2)}
    )

    assert report.skipped == {"p": why}
    assert report.rewritten == ()
    assert weights_of(fused).items() <= weights_of(model).items()
    assert as_text(model) == before


@pytest.mark.parametrize("name", ["w", "b", "scale"])
def test_an_attention_whose_weights_are_fed_stays(name: str) -> None:
    shapes = {"w": "float[3, 12] w", "b": "float[12] b", "scale": "float scale"}
    model = attention(signature=SIGNATURE.replace("x)", f"x, {shapes[name]})"))

    _, report = apply(FUSE_ATTENTION, model, {**FEEDS, name: noise(*model_shape(model, name))})

    assert report.rewritten == ()
    assert list(report.skipped) == ["p"]


def model_shape(model: ir.Model, name: str) -> tuple[int, ...]:
    [shape] = [value.shape for value in model.graph.inputs if value.name == name]
    assert shape is not None
    return shape.numpy()


@pytest.mark.parametrize(("also", "shape"), [("q", "1, 2, 4, 2"), ("h", "3, 1, 2, 4, 2")])
def test_a_q_that_feeds_other_nodes_too_is_not_scaled(also: str, shape: str) -> None:
    signature = SIGNATURE.replace("y)", f"y, float[{shape}] other)")
    model = attention(f"{WHOLE} other = Tanh({also})", signature)

    fused, report = apply(FUSE_ATTENTION, model, FEEDS)

    assert report.skipped == {"p": "q, k and v feed other nodes too"}
    assert as_text(fused) == as_text(model)


# A RoPE of two channels: (a, b) becomes (a cos - b sin, b cos + a sin).
ROPE = (
    "qa, qb = Split<axis=3, num_outputs=2>(q) n = Neg(qb) turned = Concat<axis=3>(n, qa) "
    "qc = Mul(q, cos) qs = Mul(turned, sin) qr = Add(qc, qs) "
)
TABLES = {"cos": noise(4, 2, seed=5), "sin": noise(4, 2, seed=6)}
TURNED = LINEAR + CUT + ROPE + SCORES.replace("(q,", "(qr,") + MIX


def test_the_scale_goes_through_rope_into_the_linear() -> None:
    fused, report = fuse(TURNED, **TABLES)

    assert report.rewritten == ("p",)
    assert_allclose(weights_of(fused)["b_scaled"], [*B[:4] * 0.3, *B[4:]], rtol=1e-6)
    assert ops(fused)["Mul"] == 2


@pytest.mark.parametrize("also", ["q", "qr", "turned"])
def test_a_q_that_feeds_other_nodes_before_or_in_its_rope_is_not_scaled(also: str) -> None:
    signature = SIGNATURE.replace("y)", "y, float[1, 2, 4, 2] other)")
    model = attention(f"{TURNED} other = Tanh({also})", signature, **TABLES)

    _, report = apply(FUSE_ATTENTION, model, FEEDS)

    assert report.skipped == {"p": "q, k and v feed other nodes too"}


@pytest.mark.parametrize(
    ("last", "why"),
    [
        ("qn = Mul(qd, norm_scale)", None),
        ("qn = Abs(qd)", "q's norm ends in no weight that could take the scale"),
        ("qn = Mul(qd, qm)", "q's norm ends in no weight that could take the scale"),
    ],
    ids=["weight", "another node", "no constant"],
)
def test_the_weight_at_the_end_of_a_norm_of_several_nodes_takes_the_scale(
    last: str, why: str | None
) -> None:
    norm = f"qm = ReduceMean(q, last) qd = Div(q, qm) {last} "
    model = attention(
        LINEAR + CUT + norm + SCORES.replace("(q,", "(qn,") + MIX,
        norm_scale=NORM_SCALE,
        last=[-1],
    )
    modules = {str(node.outputs[0].name): "attn" for node in model.graph}
    restore_modules(model.graph, modules | dict.fromkeys(["qm", "qd", "qn"], "attn.q_norm"))

    fused, report = apply(FUSE_ATTENTION, model, FEEDS)

    assert report.skipped == ({} if why is None else {"p": why})
    if why is None:
        assert_allclose(weights_of(fused)["norm_scale_scaled"], NORM_SCALE * 0.3, rtol=1e-6)
        assert_allclose(weights_of(fused)["w"], W)


def test_a_norm_whose_weights_are_fed_stays() -> None:
    norm = "qn = LayerNormalization<axis=-1>(q, norm_scale) "
    body = LINEAR + CUT + norm + SCORES.replace("(q,", "(qn,") + MIX
    model = attention(body, SIGNATURE.replace("x)", "x, float[2] norm_scale)"))

    _, report = apply(FUSE_ATTENTION, model, {**FEEDS, "norm_scale": NORM_SCALE})

    assert report.skipped == {"p": "the affine part of q's norm is no constant"}


def test_the_given_model_is_left_as_it_was() -> None:
    model = attention()
    before = as_text(model)

    apply(FUSE_ATTENTION, model, FEEDS)

    assert as_text(model) == before


def test_a_second_time_no_attention_is_found() -> None:
    fused, _ = fuse()

    again, report = apply(FUSE_ATTENTION, fused, FEEDS)

    assert report.rewritten == ()
    assert as_text(again) == as_text(fused)


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        tiny_pit(depth=2, pswa=PswaConfig(4, "projected", qk_norm=True, rel_pos_bias=True)),
        tiny_pit(depth=2, pswa=PswaConfig(4, merge="add_proj"), pcca=PccaConfig("const", (1.0,))),
        tiny_pit(depth=2, global_layers=(1,)),
        tiny_dit(depth=2),
    ],
    ids=["input", "projected", "added", "global", "dit"],
)
def test_every_attention_of_a_traced_model_is_found(config: Any) -> None:
    model, _ = apply(WINDOW_MAJOR, traced(config), feeds_for(config))

    fused, report = apply(FUSE_ATTENTION, model, feeds_for(config))

    assert len(report.rewritten) == config.depth
    assert report.skipped == {}
    assert HEADS_FIRST not in transposes(fused)


def test_windows_that_are_still_cut_in_every_block_keep_their_attention() -> None:
    fused, [report] = apply_all([FUSE_ATTENTION], traced(CONFIG), feeds_for(CONFIG))

    assert ops(fused) == ops(traced(CONFIG))
    assert set(report.skipped.values()) == {
        "q, k and v are not cut from one tensor [B, S, 3, H, d]"
    }
