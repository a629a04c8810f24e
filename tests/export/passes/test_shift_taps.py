from __future__ import annotations

import onnx_ir as ir
import pytest
from pass_helpers import check_shapes, graph, noise, ops

from pitstop.export.graph_pass import apply
from pitstop.export.passes import SHIFT_TAPS

FEEDS = {"x": noise(2, 3, 5, 7)}


def convolution(attributes: str, *weights: object, rows: int = 5, columns: int = 7) -> ir.Model:
    names = ["w", "b"][: len(weights)]
    body = f"y = Conv<{attributes}, group=3>(x, {', '.join(names)})"
    signature = f"(float[2, 3, 5, 7] x) => (float[2, 3, {rows}, {columns}] y)"
    return graph(signature, body, **dict(zip(names, weights, strict=True)))


@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (5, 5), (1, 3), (3, 1), (5, 3)])
@pytest.mark.parametrize("biased", [False, True])
def test_a_depthwise_convolution_becomes_a_sum_of_its_taps(
    rows: int, columns: int, biased: bool
) -> None:
    pads = [rows // 2, columns // 2] * 2
    weights = [noise(3, 1, rows, columns, seed=1), noise(3, seed=2)][: 1 + biased]
    model = convolution(f"pads={pads}, kernel_shape=[{rows}, {columns}]", *weights)

    shifted, report = apply(SHIFT_TAPS, model, FEEDS)

    assert report.rewritten == ("y",)
    assert ops(shifted)["Conv"] == 0
    assert ops(shifted)["Slice"] == rows * columns
    assert report.relative_l2 <= 1e-6
    check_shapes(shifted)


@pytest.mark.parametrize(
    ("attributes", "rows", "columns", "why"),
    [
        ("pads=[1, 1, 1, 1], strides=[2, 2]", 3, 4, "it skips places"),
        ("pads=[2, 2, 2, 2], dilations=[2, 2]", 5, 7, "it skips places"),
        ("pads=[0, 0, 0, 0]", 3, 5, "no grid of the same size"),
    ],
)
def test_another_convolution_is_left_alone_and_why_is_told(
    attributes: str, rows: int, columns: int, why: str
) -> None:
    all_of_it = f"strides=[1, 1], dilations=[1, 1], kernel_shape=[3, 3], {attributes}"
    for given in ("strides", "dilations"):
        if given in attributes:
            all_of_it = all_of_it.replace(f"{given}=[1, 1], ", "")
    model = convolution(all_of_it, noise(3, 1, 3, 3), rows=rows, columns=columns)

    shifted, report = apply(SHIFT_TAPS, model, FEEDS)

    assert report.rewritten == ()
    assert why in report.skipped["y"]
    assert ops(shifted)["Conv"] == 1
