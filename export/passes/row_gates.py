"""Let each image's gate into the linear before it, where the rows of all images are one axis.

    x + g[image] y    ->    x + y m[0] g[0] + y m[1] g[1]        m[i]: 1 in the rows of image i

A gate differs from image to image, and with it the rows of a matmul. TensorRT puts a factor that is
one row or one column, as these are, into the matmul's own kernel, with the residual's sum; any
other it applies in the norm behind, which then reads and writes the residual stream once more.
Exact: all terms but one are 0. Runs after place_major.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...graphs.weights import (
    add_constant,
    dims,
    first_input,
    insert,
    is_constant,
    made_by,
    replace_node,
    reshape,
    sole_user,
)
from ..graph_pass import GraphPass, Sites

MOST_IMAGES = 4  # each is two multiplications and a sum for each number that a linear makes


def row_gates(graph: ir.Graph) -> Sites:
    sites = Sites()
    for add in [node for node in graph if node.op_type == "Add"]:
        gated = _gated(add)
        if gated is None:
            continue
        stream, gate, linear = gated
        images = dims(gate)[0]
        if images > MOST_IMAGES:
            sites.skip(add, f"{images} images would be {images} products for each number")
            continue
        sites.rewrite(add)
        _rewrite(graph, add, stream, gate, linear)
    return sites


def _gated(add: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value] | None:
    """The residual stream, the gate [B, 1, C] and the linear's rows that an Add brings together."""
    for stream, gated in (add.inputs, reversed(add.inputs)):
        flat = made_by(gated, "Reshape")
        product = made_by(flat.inputs[0], "Mul") if flat is not None else None
        if stream is None or product is None or sole_user(product.outputs[0]) is not flat:
            continue
        for gate, apart in (product.inputs, reversed(product.inputs)):
            cut = made_by(apart, "Reshape")
            if gate is None or cut is None or is_constant(gate) or len(dims(gate)) != 3:
                continue
            rows = first_input(cut)
            if dims(gate)[1] == 1 and len(dims(apart)) == 4 and dims(rows) == dims(stream):
                return stream, gate, rows
    return None


def _rewrite(
    graph: ir.Graph, add: ir.Node, stream: ir.Value, gate: ir.Value, linear: ir.Value
) -> None:
    flat = next(made for value in add.inputs if (made := made_by(value, "Reshape")))
    inside, images, windows, width = dims(flat.inputs[0])
    rows = inside * images * windows
    axis = add_constant(graph, "axes", np.array([0], np.int64))
    total = stream
    for image in range(images):
        belongs = np.zeros((inside, images, windows), np.float32)
        belongs[:, image] = 1
        mask = add_constant(graph, f"rows_of_{image}", belongs.reshape(rows, 1))
        limits = [add_constant(graph, "limit", np.array([end], np.int64))
                  for end in (image, image + 1)]  # fmt: skip
        one = insert(graph, add, "Slice", [gate, *limits, axis], (1, 1, width))
        row = reshape(graph, add, one, (1, width))
        shown = insert(graph, add, "Mul", [linear, mask], (rows, width))
        gated = insert(graph, add, "Mul", [shown, row], (rows, width))
        total = insert(graph, add, "Add", [total, gated], (rows, width))
    replace_node(graph, add, total)


ROW_GATES = GraphPass("row_gates", row_gates, tolerance=1e-6)
