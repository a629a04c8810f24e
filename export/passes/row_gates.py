"""Let each image's gate into the linear before it, where the rows of all images are one axis.

    x + g[image] y    ->    x + y m[0] g[0] + y m[1] g[1]        m[i]: 1 in the rows of image i

A gate differs from image to image, and with it the rows of a matmul. TensorRT puts a factor that is
one row or one column, as these are, into the matmul's own kernel, with the residual's sum; any
other it applies in the norm behind, which then reads and writes the residual stream once more.
Exact: all terms but one are 0. Runs after place_major.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
        images = dims(gated.gate)[0]
        if images > MOST_IMAGES:
            sites.skip(add, f"{images} images would be {images} products for each number")
            continue
        sites.rewrite(add)
        _rewrite(graph, add, gated)
    return sites


@dataclass(frozen=True)
class Gated:
    """What an Add brings together.

    Attributes:
        stream: The residual stream, [row, channel].
        gate: [B, 1, channel].
        linear: What the gate lets through, [row, channel].
        apart: The same as [S, B, W, channel].
    """

    stream: ir.Value
    gate: ir.Value
    linear: ir.Value
    apart: ir.Value


def _gated(add: ir.Node) -> Gated | None:
    for stream, gated in (add.inputs, reversed(add.inputs)):
        flat = made_by(gated, "Reshape")
        product = made_by(flat.inputs[0], "Mul") if flat is not None else None
        if stream is None or product is None or sole_user(product.outputs[0]) is not flat:
            continue
        for gate, apart in (product.inputs, reversed(product.inputs)):
            cut = made_by(apart, "Reshape")
            if gate is None or apart is None or cut is None or is_constant(gate):
                continue
            found = Gated(stream, gate, first_input(cut), apart)
            if _fits(found):
                return found
    return None


def _fits(found: Gated) -> bool:
    """Whether a gate is for the images of rows, as place_major has them."""
    gate, apart, rows = dims(found.gate), dims(found.apart), dims(found.stream)
    if len(gate) != 3 or len(apart) != 4 or dims(found.linear) != rows:
        return False
    return gate == (apart[1], 1, apart[3]) and rows == (math.prod(apart[:3]), apart[3])


def _rewrite(graph: ir.Graph, add: ir.Node, gated: Gated) -> None:
    inside, images, windows, width = dims(gated.apart)
    rows = inside * images * windows
    axis = add_constant(graph, "axes", np.array([0], np.int64))
    total = gated.stream
    for image in range(images):
        belongs = np.zeros((inside, images, windows), np.float32)
        belongs[:, image] = 1
        mask = add_constant(graph, f"rows_of_{image}", belongs.reshape(rows, 1))
        limits = [add_constant(graph, "limit", np.array([end], np.int64))
                  for end in (image, image + 1)]  # fmt: skip
        one = insert(graph, add, "Slice", [gated.gate, *limits, axis], (1, 1, width))
        row = reshape(graph, add, one, (1, width))
        shown = insert(graph, add, "Mul", [gated.linear, mask], (rows, width))
        product = insert(graph, add, "Mul", [shown, row], (rows, width))
        total = insert(graph, add, "Add", [total, product], (rows, width))
    replace_node(graph, add, total)


ROW_GATES = GraphPass("row_gates", row_gates, tolerance=0)
