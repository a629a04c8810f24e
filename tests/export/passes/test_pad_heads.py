from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from model_helpers import tiny_dit, tiny_edt, tiny_pit
from numpy.testing import assert_array_equal
from pass_helpers import (
    as_text,
    ask_pair,
    ask_pytorch,
    check_shapes,
    feeds_for,
    graph,
    noise,
    ops,
    traced,
    weights_of,
)
from rope_helpers import rope_feeds, rope_traced

from pitstop.export.graph_pass import PassBroken, apply, apply_all
from pitstop.export.optimize import choose_steps, optimize
from pitstop.export.passes import pad_heads
from pitstop.export.passes.fuse_attention import FUSE_ATTENTION
from pitstop.export.passes.pad_heads import PAD_HEADS, padded_size
from pitstop.models.amm import AmmConfig
from pitstop.models.pit import PswaConfig
from pitstop.runtime.bundle.manifest import PassReport
from pitstop.runtime.distance import relative_l2

# Two heads of three channels over four tokens, as fuse_attention leaves them.
LINEAR = "l = MatMul(x, w) r = Add(l, b) qkv_q, qkv_k, qkv_v = Split<axis=2>(r, sizes) "
HEADS = "hq = Reshape(qkv_q, heads) hk = Reshape(qkv_k, heads) hv = Reshape(qkv_v, heads) "
TURN = (
    "q = Transpose<perm=[0, 2, 1, 3]>(hq) k = Transpose<perm=[0, 2, 3, 1]>(hk) "
    "v = Transpose<perm=[0, 2, 1, 3]>(hv) "
)
MIX = "s = MatMul(q, k) p = Softmax<axis=-1>(s) m = MatMul(p, v) "
OUT = "t = Transpose<perm=[0, 2, 1, 3]>(m) f = Reshape(t, flat) y = MatMul(f, wo)"
WHOLE = LINEAR + HEADS + TURN + MIX + OUT
SIGNATURE = "(float[1, 4, 5] x) => (float[1, 4, 5] y)"
W, B, WO = noise(5, 18, seed=1), noise(18, seed=2), noise(6, 5, seed=3)
WEIGHTS: dict[str, Any] = {
    "w": W,
    "b": B,
    "wo": WO,
    "sizes": [6, 6, 6],
    "heads": [1, 4, 2, 3],
    "flat": [1, 4, 6],
}
FEEDS = {"x": noise(1, 4, 5)}


def attention(body: str = WHOLE, signature: str = SIGNATURE, **weights: Any) -> ir.Model:
    fed = signature.split("=>")[0]
    known = {**WEIGHTS, **weights}
    return graph(signature, body, **{n: a for n, a in known.items() if f" {n}" not in fed})


def pad(body: str = WHOLE, **weights: Any) -> tuple[ir.Model, PassReport]:
    return apply(PAD_HEADS, attention(body, **weights), FEEDS)


@pytest.mark.parametrize(
    ("size", "wider"), [(72, 80), (52, 64), (64, 64), (80, 80), (3, 16), (17, 32)]
)
def test_the_next_multiple_is_that_of_the_kernels(size: int, wider: int) -> None:
    assert padded_size(size) == wider


def test_zeros_stand_behind_the_channels_of_every_head() -> None:
    padded, report = pad()

    weights = weights_of(padded)
    w, b, wo = (np.array(weights[f"{name}_padded"], np.float32) for name in ("w", "b", "wo"))
    assert w.shape == (5, 3 * 2 * 16)
    assert_array_equal(w.reshape(5, 6, 16)[:, :, :3], W.reshape(5, 6, 3))
    assert_array_equal(b.reshape(6, 16)[:, :3], B.reshape(6, 3))
    assert_array_equal(wo.reshape(2, 16, 5)[:, :3], WO.reshape(2, 3, 5))
    assert not w.reshape(5, 6, 16)[:, :, 3:].any()
    assert not b.reshape(6, 16)[:, 3:].any()
    assert not wo.reshape(2, 16, 5)[:, 3:].any()
    assert report.rewritten == ("p",)


def test_no_node_is_added_and_the_shapes_are_true() -> None:
    padded, _ = pad()
    assert ops(padded) == ops(attention())
    check_shapes(padded)


@pytest.mark.parametrize(
    ("body", "weights", "why"),
    [
        ("s = Neg(x) p = Softmax<axis=-1>(s) y = Identity(p)", {},
         "no matmul makes its scores, or none uses them"),
        (WHOLE.replace("MatMul(q, k)", "MatMul(n, k)").replace("s =", "n = Tanh(q) s ="), {},
         "q, k or v is normalised per head, or not cut by fuse_attention"),
        (WHOLE.replace("Reshape(qkv_k", "Reshape(qkv_v").replace("hv = Reshape(qkv_v",
         "hv = Reshape(qkv_k"), {},
         "its linear makes more than q, k and v, or feeds other nodes too"),
        (WHOLE.replace("r = Add(l, b)", "r = Add(b, l)"), {},
         "no linear of its own makes q, k and v"),
        (WHOLE.replace("y = MatMul(f, wo)", "y = MatMul(f, f2) ").replace(
         "f = ", "f2 = Reshape(t, other) f = "), {"other": [1, 6, 4]},
         "no projection of its own reads its heads"),
    ],
    ids=["no scores", "normed", "out of order", "bias first", "no projection"],
)  # fmt: skip
def test_another_attention_stays_and_the_report_says_why(
    body: str, weights: dict[str, Any], why: str
) -> None:
    signature = SIGNATURE.replace("5] y", "4] y") if "f2" in body else SIGNATURE
    model = attention(body, signature, **weights)
    before = as_text(model)

    _, report = apply(PAD_HEADS, model, FEEDS)

    assert report.skipped == {"p": why}
    assert report.rewritten == ()
    assert as_text(model) == before


def test_heads_that_fit_already_stay() -> None:
    config = tiny_dit(depth=1, hidden_size=64, num_heads=4)
    fused, _ = apply(FUSE_ATTENTION, traced(config), feeds_for(config))

    padded, report = apply(PAD_HEADS, fused, feeds_for(config))

    assert list(report.skipped.values()) == ["its heads of 16 channels are a multiple of 16"]
    assert as_text(padded) == as_text(fused)


def test_an_attention_as_it_was_traced_is_not_of_the_form() -> None:
    config = tiny_dit(depth=1)
    _, report = apply(PAD_HEADS, traced(config), feeds_for(config))
    assert list(report.skipped.values()) == [
        "q, k or v is normalised per head, or not cut by fuse_attention"
    ]


def test_heads_that_rope_turns_keep_their_size() -> None:
    _, (*_, report) = apply_all([FUSE_ATTENTION, PAD_HEADS], rope_traced(False), rope_feeds())

    assert set(report.skipped.values()) == {
        "q and k are turned by RoPE, whose tables have the size of a head"
    }


@pytest.mark.parametrize("target", ["portable", "onnxruntime"])
@pytest.mark.parametrize(
    ("config", "sites"),
    [
        (tiny_edt(amm=AmmConfig((1,))), 5),
        (tiny_dit(depth=2, hidden_size=72, num_heads=1), 2),
        (tiny_dit(depth=1, hidden_size=52, num_heads=1), 1),
        (tiny_dit(depth=1, hidden_size=256, num_heads=4), 0),
    ],
    ids=["edt", "72", "52", "64"],
)
def test_the_pair_of_a_padded_model_answers_as_pytorch(
    config: Any, sites: int, target: str
) -> None:
    feeds = feeds_for(config)
    folded = optimize(traced(config), feeds, choose_steps(target, (), ("pad_heads",)))
    graphs = folded.graphs

    found = ask_pair(graphs["conditioner"], graphs["denoiser.fp32"], feeds)

    [report] = [report for report in folded.reports if report.name == "pad_heads"]
    assert len(report.rewritten) == sites
    assert len(report.skipped) == config.depth - sites
    assert relative_l2(ask_pytorch(config, feeds), found) <= 1e-5
    for part in graphs.values():
        check_shapes(part)


def test_the_scale_stays_that_of_the_trained_size() -> None:
    """With 72 ** -0.5 and not 80 ** -0.5 in q's columns, or the softmax would be flatter."""
    config = tiny_dit(depth=1, hidden_size=72, num_heads=1)
    fused, _ = apply(FUSE_ATTENTION, traced(config), feeds_for(config))

    padded, report = apply(PAD_HEADS, fused, feeds_for(config))

    [before], [after] = (
        [np.array(a) for n, a in weights_of(m).items() if n.endswith(end)]
        for m, end in ((fused, "qkv.bias_scaled"), (padded, "qkv.bias_scaled_padded"))
    )
    assert_array_equal(after.reshape(3, 80)[:, :72], before.reshape(3, 72))
    assert report.relative_l2 <= 1e-6


def test_pits_bridge_keeps_its_attention_as_it_is() -> None:
    """Its projection reads attention and bridge side by side."""
    config = tiny_pit(depth=1, pswa=PswaConfig(4))
    folded = optimize(
        traced(config), feeds_for(config), choose_steps("portable", (), ["pad_heads"])
    )
    [report] = [report for report in folded.reports if report.name == "pad_heads"]
    assert report.rewritten == ()
    assert len(report.skipped) == 1


@pytest.mark.parametrize("broken", ["no zeros", "behind all heads", "a short projection"])
def test_a_padding_that_is_wrong_stops_the_export(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pad_heads._pad_last

    def wrong(array: Any, heads: tuple[int, int], wider: int) -> Any:
        if broken == "no zeros":
            return whole(array, heads, wider) + np.float32(0.1)
        if broken == "behind all heads":
            missing = heads[0] * (wider - heads[1])
            around = [(0, 0)] * (array.ndim - 1) + [(0, missing)]
            return np.pad(array, around)
        made = whole(array, heads, wider).copy()
        if heads[0] == 2:
            made[..., 0] = 0
        return made

    monkeypatch.setattr(pad_heads, "_pad_last", wrong)
    with pytest.raises(PassBroken):
        pad()


def test_the_given_model_is_left_as_it_was_and_a_second_time_nothing_is_found() -> None:
    model = attention()
    before = as_text(model)

    padded, _ = apply(PAD_HEADS, model, FEEDS)
    again, report = apply(PAD_HEADS, padded, FEEDS)

    assert as_text(model) == before
    assert report.skipped == {"p": "its heads of 16 channels are a multiple of 16"}
    assert as_text(again) == as_text(padded)


def test_it_is_off_for_every_target_until_it_is_asked_for(tmp_path: Path) -> None:
    """And what is padded can be written in fp16 too."""
    assert "pad_heads" not in choose_steps("tensorrt11", ())
    assert "pad_heads" in choose_steps("tensorrt11", (), ["pad_heads"])
    assert "pad_heads" not in choose_steps("tensorrt11", ["pad_heads"], ["pad_heads"])
