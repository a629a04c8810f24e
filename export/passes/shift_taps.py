"""Write a depthwise convolution as the sum of its taps over shifted grids.

    y[r, c] = sum over (i, j) of w[i, j] x[r + i - e, c + j - e]        e: the padded edge

TensorRT fuses such sums, channels last as rows of tokens have them, with the moves around them and
with the join of the branches into one kernel; a convolution is one of its own, whose input is moved
for it and whose output is moved back. The order of the sums may differ.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...graphs.convolution import is_depthwise, weight_and_bias
from ...graphs.weights import (
    add_constant,
    dims,
    first_input,
    insert,
    replace_node,
    transpose,
)
from ..graph_pass import GraphPass, Sites

CHANNELS_LAST, CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def shift_taps(graph: ir.Graph) -> Sites:
    sites = Sites()
    for convolution in [node for node in graph if is_depthwise(node)]:
        if why := why_not_shift(convolution):
            sites.skip(convolution, why)
        else:
            sites.rewrite(convolution)
            replace_node(graph, convolution, _sum_of_taps(graph, convolution))
    return sites


def why_not_shift(convolution: ir.Node) -> str | None:
    """Why a depthwise convolution is no sum over shifts of one grid, or None where it is one."""
    if _ints(convolution, "strides", 1) + _ints(convolution, "dilations", 1) != (1,) * 4:
        return "it skips places of the grid"
    if convolution.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return "its padding is not written down"
    if dims(convolution.inputs[0]) != dims(convolution.outputs[0]):
        return "its output is no grid of the same size"
    _, bias = weight_and_bias(convolution)
    return "its bias is no constant" if bias is None else None


def _sum_of_taps(graph: ir.Graph, convolution: ir.Node) -> ir.Value:
    weight, bias = weight_and_bias(convolution)
    assert weight is not None
    assert bias is not None
    batch, channels, rows, columns = dims(convolution.inputs[0])
    top, left, bottom, right = _ints(convolution, "pads", 0)
    grid = transpose(graph, convolution, first_input(convolution), CHANNELS_LAST)
    edges = np.array([0, top, left, 0, 0, bottom, right, 0], np.int64)
    padded = insert(
        graph,
        convolution,
        "Pad",
        [grid, add_constant(graph, "edges", edges)],
        (batch, rows + top + bottom, columns + left + right, channels),
    )
    shape = (batch, rows, columns, channels)
    axes = add_constant(graph, "axes", np.array([1, 2], np.int64))
    total = add_constant(graph, "bias", bias) if bias.any() else None
    for row, column in np.ndindex(*weight.shape[2:]):
        starts, ends = (
            add_constant(graph, name, np.array(corner, np.int64))
            for name, corner in (
                ("starts", (row, column)),
                ("ends", (row + rows, column + columns)),
            )
        )
        seen = insert(graph, convolution, "Slice", [padded, starts, ends, axes], shape)
        tap = add_constant(graph, "tap", weight[:, 0, row, column])
        product = insert(graph, convolution, "Mul", [seen, tap], shape)
        total = (
            product if total is None else insert(graph, convolution, "Add", [product, total], shape)
        )
    assert total is not None
    return transpose(graph, convolution, total, CHANNELS_FIRST)


def _ints(node: ir.Node, name: str, default: int) -> tuple[int, ...]:
    """An attribute of both axes of a grid; ``pads`` has both ends of each."""
    count = 4 if name == "pads" else 2
    return tuple(node.attributes.get_ints(name, (default,) * count))


SHIFT_TAPS = GraphPass("shift_taps", shift_taps, tolerance=1e-5)
