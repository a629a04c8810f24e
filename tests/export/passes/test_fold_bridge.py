from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from model_helpers import tiny_pit
from numpy.testing import assert_allclose
from pass_helpers import as_text, feeds_for, graph, noise, ops, traced, weight, weights_of

from pitstop.export.graph_pass import apply
from pitstop.export.passes.fold_bridge import FOLD_BRIDGE
from pitstop.models.pit import BridgeConfig, PccaConfig, PswaConfig
from pitstop.runtime.bundle.manifest import PassReport

DW = noise(2, 1, 3, 3, seed=1)
PW = np.array([[2.0, 3.0], [5.0, 7.0]])  # out, in
PROJ = np.array([[0.3, -0.7, 1.1], [1.0, 0.0, 2.0], [0.0, 1.0, 3.0]])  # a row of the attention's
WEIGHTS: dict[str, Any] = {
    "to_grid": [1, 2, 2, 2],
    "to_tokens": [1, 2, 4],
    "dw": DW,
    "dw_bias": [0.3, -0.5],
    "pw": PW[:, :, None, None],
    "pw_bias": [0.1, 0.2],
    "proj": PROJ,
    "bias": [1.0, 1.0, 1.0],
}
SIGNATURE = "(float[1, 4, 1] a, float[1, 4, 2] b) => (float[1, 4, 3] y)"
GRID = "t = Transpose<perm=[0, 2, 1]>(b) g = Reshape(t, to_grid) "
DEPTHWISE = "u = Conv<group=2, kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(g, dw, dw_bias) "
POINTWISE = "p = Conv<group=1, kernel_shape=[1, 1]>({}, pw, pw_bias) "
POOL = "AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1>(g)"
NORM = "n = BatchNormalization<epsilon=0.0>(u, gamma, beta, mean, variance) "
NORMS: dict[str, Any] = {
    "gamma": [3.0, 0.5],
    "beta": [0.7, -0.2],
    "mean": [0.3, 1.1],
    "variance": [4.0, 0.25],
}
PROJECT = "j = Concat<axis=2>(a, z) m = MatMul(j, proj) y = Add(m, bias) "
ADDED = "j = Add(a, z) m = MatMul(j, proj) y = Add(m, bias) "
FEEDS = {"a": noise(1, 4, 1), "b": noise(1, 4, 2, seed=2)}
WIDE = "(float[1, 4, 2] a, float[1, 4, 2] b) => (float[1, 4, 3] y)"
WIDE_FEEDS = {"a": noise(1, 4, 2), "b": noise(1, 4, 2, seed=2)}


def tokens_of(name: str) -> str:
    return f"f = Reshape({name}, to_tokens) z = Transpose<perm=[0, 2, 1]>(f) "


def bridge(body: str, signature: str = SIGNATURE, **weights: Any) -> ir.Model:
    """A bridge over a grid of 2 x 2 tokens, its two channels beside one of the attention."""
    used = {name: array for name, array in {**WEIGHTS, **NORMS, **weights}.items() if name in body}
    return graph(signature, body, **used)


def fold(body: str, **weights: Any) -> tuple[ir.Model, PassReport]:
    return apply(FOLD_BRIDGE, bridge(body, **weights), FEEDS)


def whole(between: str = "", last: str = "u") -> str:
    """A bridge with a pointwise convolution, and something after the depthwise one."""
    return GRID + DEPTHWISE + between + POINTWISE.format(last) + tokens_of("p") + PROJECT


def test_the_pointwise_weights_move_into_the_rows_of_the_bridge() -> None:
    folded, report = fold(whole("s = Sigmoid(u) ", "s"))

    assert ops(folded)["Conv"] == 1
    assert_allclose(weight(folded, "MatMul"), [[0.3, -0.7, 1.1], [2, 5, 19], [3, 7, 27]], rtol=1e-6)
    assert_allclose(weight(folded, "Add"), [1.1, 1.2, 1.8], rtol=1e-6)
    assert report.rewritten == ("p",)


def test_the_depthwise_bias_moves_into_the_bias_of_the_projection() -> None:
    folded, report = fold(GRID + DEPTHWISE + tokens_of("u") + PROJECT)

    convolution = next(node for node in folded.graph if node.op_type == "Conv")
    assert len(convolution.inputs) == 2
    assert_allclose(weight(folded, "Add"), [1.3, 0.5, 0.1], rtol=1e-5)
    assert report.rewritten == ("u",)


def test_both_biases_add_up() -> None:
    folded, report = fold(whole())

    # 1 + pw_bias P_b + dw_bias (PW^T P_b), with PW^T P_b = [[2, 5, 19], [3, 7, 27]]
    assert_allclose(weight(folded, "Add"), [0.2, -0.8, -6.0], rtol=1e-5)
    assert report.rewritten == ("p", "u")


def test_the_highpass_comes_off_every_tap() -> None:
    folded, report = fold(whole(f"k = {POOL} h = Sub(u, k) ", "h"))

    assert not {"AveragePool", "Sub"} & set(ops(folded))
    assert_allclose(weight(folded, "Conv"), DW - 1 / 9, rtol=1e-5)
    assert report.rewritten[0] == "h"


def test_the_norm_scales_the_taps_and_moves_the_bias() -> None:
    folded, _ = fold(whole(NORM + "s = Tanh(n) ", "s"))

    assert "BatchNormalization" not in ops(folded)
    assert_allclose(weight(folded, "Conv"), DW * [[[[1.5]]], [[[1.0]]]], rtol=1e-6)
    assert_allclose(weight(folded, "Conv", 2), [0.7, -1.8], rtol=1e-6)


def test_a_norm_after_the_highpass_scales_what_the_highpass_left() -> None:
    norm = NORM.replace("(u,", "(h,")
    folded, _ = fold(whole(f"k = {POOL} h = Sub(u, k) {norm} s = Tanh(n) ", "s"))

    expected = (DW - 1 / 9) * [[[[1.5]]], [[[1.0]]]]
    assert_allclose(weight(folded, "Conv"), expected, rtol=1e-5)


def test_rolled_channels_become_rolled_rows() -> None:
    roll = (
        "c = Concat<axis=2>(a, z) tail = Slice(c, two, nine, two) head = Slice(c, none, two, two) "
        "j = Concat<axis=2>(tail, head) m = MatMul(j, proj) y = Add(m, bias) "
    )
    folded, report = fold(GRID + DEPTHWISE + tokens_of("u") + roll, two=[2], nine=[9], none=[0])

    # y = (c2, c0, c1): the first row of the weight met channel 2.
    assert_allclose(weight(folded, "MatMul"), PROJ[[1, 2, 0]].astype(np.float32))
    assert ops(folded)["Slice"] == 0
    assert report.rewritten == ("j", "u")


def test_a_bridge_that_is_added_becomes_rows_of_its_own() -> None:
    body = GRID + DEPTHWISE + POINTWISE.format("u") + tokens_of("p") + ADDED
    model = bridge(body, WIDE, proj=PROJ[1:])

    folded, report = apply(FOLD_BRIDGE, model, WIDE_FEEDS)

    assert_allclose(
        weight(folded, "MatMul"), [[1, 0, 2], [0, 1, 3], [2, 5, 19], [3, 7, 27]], rtol=1e-6
    )
    assert_allclose(weight(folded, "Add"), [0.2, -0.8, -6.0], rtol=1e-5)
    assert report.rewritten == ("p", "u")


def test_an_added_bridge_without_pointwise_weights_keeps_its_sum() -> None:
    model = bridge(GRID + DEPTHWISE + tokens_of("u") + ADDED, WIDE, proj=PROJ[1:])

    folded, report = apply(FOLD_BRIDGE, model, WIDE_FEEDS)

    assert_allclose(weight(folded, "MatMul"), PROJ[1:], rtol=1e-6)
    assert report.rewritten == ("u",)


def test_convolutions_without_biases_fold_too() -> None:
    body = whole(NORM + "s = Tanh(n) ", "s").replace(", dw_bias", "").replace(", pw_bias", "")

    folded, report = fold(body)

    assert_allclose(weight(folded, "Conv", 2), [0.25, -1.3], rtol=1e-6)
    assert report.rewritten == ("n", "p")


def test_a_bridge_of_one_channel_folds_too() -> None:
    body = whole(f"k = {POOL} h = Sub(u, k) ", "h").replace("group=2", "group=1")
    model = bridge(
        body,
        "(float[1, 4, 2] a, float[1, 4, 1] b) => (float[1, 4, 3] y)",
        to_grid=[1, 1, 2, 2],
        to_tokens=[1, 1, 4],
        dw=DW[:1],
        dw_bias=[0.3],
        pw=[[[[2.0]]]],
        pw_bias=[0.1],
    )

    folded, report = apply(FOLD_BRIDGE, model, {"a": noise(1, 4, 2), "b": noise(1, 4, 1)})

    assert report.rewritten == ("h", "p", "u")
    assert_allclose(weight(folded, "Conv"), DW[:1] - 1 / 9, rtol=1e-5)


@pytest.mark.parametrize(
    "pool",
    [
        "AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=0>(g)",
        "AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(g)",
        "AveragePool<kernel_shape=[3, 3], pads=[2, 2, 0, 0], count_include_pad=1>(g)",
        'AveragePool<kernel_shape=[3, 3], auto_pad="SAME_UPPER", count_include_pad=1>(g)',
        "AveragePool<kernel_shape=[5, 5], pads=[2, 2, 2, 2], count_include_pad=1>(g)",
    ],
)
def test_a_mean_with_another_border_stays_and_the_report_says_why(pool: str) -> None:
    folded, report = fold(whole(f"k = {pool} h = Sub(u, k) ", "h"))

    assert ops(folded)["AveragePool"] == 1
    assert report.skipped == {"h": "the mean and the convolution treat the border differently"}
    assert report.rewritten == ("p",)


@pytest.mark.parametrize("taken_off", ["k = Relu(g)", POOL.replace("(g)", "(r) ")])
def test_what_is_no_mean_of_the_same_input_stays(taken_off: str) -> None:
    mean = taken_off if taken_off.startswith("k") else f"r = Relu(g) k = {taken_off}"

    _, report = fold(whole(f"{mean} h = Sub(u, k) ", "h"))

    assert report.skipped == {"h": "what is taken off is no mean of the convolution's input"}


def test_an_activation_keeps_the_depthwise_bias_where_it_is() -> None:
    folded, report = fold(whole("s = Sigmoid(u) ", "s"))

    assert len(next(node for node in folded.graph if node.op_type == "Conv").inputs) == 3
    assert report.skipped == {
        "s": "an activation stands between the convolution and the projection"
    }


@pytest.mark.parametrize(
    ("name", "declared", "site", "why"),
    [
        ("pw", "float[2, 2, 1, 1]", "p", "its weights are no constants"),
        ("pw_bias", "float[2]", "p", "its weights are no constants"),
        (
            "gamma",
            "float[2]",
            "n",
            "its statistics or the convolution's weights are no constants",
        ),
    ],
)
def test_weights_that_are_inputs_too_stay_and_the_report_says_why(
    name: str, declared: str, site: str, why: str
) -> None:
    signature = SIGNATURE.replace("2] b", f"2] b, {declared} {name}")
    model = bridge(whole(NORM, "n"), signature)

    folded, report = apply(FOLD_BRIDGE, model, FEEDS)

    assert report.skipped[site] == why
    assert site in {node.outputs[0].name for node in folded.graph}


@pytest.mark.parametrize("name", ["proj", "bias"])
def test_a_projection_whose_weights_are_inputs_too_is_left_alone(name: str) -> None:
    shape = "float[3, 3] proj" if name == "proj" else "float[3] bias"
    model = bridge(whole(), SIGNATURE.replace("2] b", f"2] b, {shape}"))

    folded, report = apply(FOLD_BRIDGE, model, FEEDS)

    assert ops(folded) == ops(model)
    assert report.rewritten == ()


@pytest.mark.parametrize(
    ("also", "shape"), [("p", "1, 2, 2, 2"), ("f", "1, 2, 4"), ("z", "1, 4, 2"), ("j", "1, 4, 3")]
)
def test_a_bridge_that_feeds_other_nodes_too_stays_and_the_report_says_why(
    also: str, shape: str
) -> None:
    signature = SIGNATURE.replace("] y", f"] y, float[{shape}] other")
    model = bridge(whole() + f"other = Tanh({also})", signature)

    folded, report = apply(FOLD_BRIDGE, model, FEEDS)

    assert ops(folded) == ops(model)
    assert report.rewritten == ()
    assert report.skipped == {"p": "its output feeds other nodes too"}


def test_a_depthwise_output_that_feeds_other_nodes_too_keeps_its_bias() -> None:
    signature = SIGNATURE.replace("] y", "] y, float[1, 2, 2, 2] other")
    model = bridge(GRID + DEPTHWISE + tokens_of("u") + PROJECT + "other = Tanh(u)", signature)

    _, report = apply(FOLD_BRIDGE, model, FEEDS)

    assert report.rewritten == ()
    assert report.skipped == {"u": "its output feeds other nodes too"}


def test_tokens_put_one_after_the_other_are_no_bridge() -> None:
    body = (whole()).replace("Concat<axis=2>", "Concat<axis=1>")
    model = bridge(body, WIDE.replace("[1, 4, 3] y", "[1, 8, 3] y"), proj=PROJ[1:])

    _, report = apply(FOLD_BRIDGE, model, WIDE_FEEDS)

    assert report.rewritten == ()


def test_weights_that_two_bridges_share_are_edited_for_each_by_itself() -> None:
    first = whole(f"k = {POOL} h = Sub(u, k) ", "h")
    second = re.sub(r"\b([tgupfzjmy])\b", r"\g<1>2", whole())
    model = bridge(first + second, SIGNATURE.replace("] y", "] y, float[1, 4, 3] y2"))

    folded, report = apply(FOLD_BRIDGE, model, FEEDS)

    assert report.rewritten == ("h", "p", "u", "p2", "u2")
    assert_allclose(weight(folded, "Conv", index=0), DW - 1 / 9, rtol=1e-5)
    assert_allclose(weight(folded, "Conv", index=1), DW)
    assert_allclose(weight(folded, "MatMul", index=0), weight(folded, "MatMul", index=1))
    assert_allclose(weight(folded, "Add", index=0), weight(folded, "Add", index=1))


def test_the_given_model_is_left_as_it_was() -> None:
    model = bridge(whole(f"k = {POOL} h = Sub(u, k) {NORM.replace('(u,', '(h,')}", "n"))
    before = as_text(model)

    apply(FOLD_BRIDGE, model, FEEDS)

    assert as_text(model) == before


def test_a_second_time_there_is_nothing_left_to_fold() -> None:
    folded, _ = fold(whole(f"k = {POOL} h = Sub(u, k) {NORM.replace('(u,', '(h,')}", "n"))

    again, report = apply(FOLD_BRIDGE, folded, FEEDS)

    assert report.rewritten == ()
    assert weights_of(again) == weights_of(folded)


CONFIGS = {
    "dwsep": tiny_pit(depth=2),
    "all of it": tiny_pit(
        depth=2,
        pswa=PswaConfig(4, bridge=BridgeConfig("pool_dw", 5, norm="bn", highpass=True)),
    ),
    "rotating": tiny_pit(depth=2, pcca=PccaConfig("rotate", (0.5,))),
    "projected": tiny_pit(depth=2, pswa=PswaConfig(4, "projected")),
    "added": tiny_pit(
        depth=2, pswa=PswaConfig(4, merge="add_proj"), pcca=PccaConfig("const", (1.0,))
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_in_a_traced_block_only_the_depthwise_convolution_is_left(name: str) -> None:
    config = CONFIGS[name]

    folded, report = apply(FOLD_BRIDGE, traced(config), feeds_for(config))

    assert ops(folded)["Conv"] == 1 + config.depth
    assert not {"BatchNormalization", "AveragePool"} & set(ops(folded))
    assert report.skipped == {}
    assert len([name for name in report.rewritten if name.startswith("conv2d")]) == 4
