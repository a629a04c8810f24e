"""Give every attention the form that a target's fused kernels know.

Traced, q, k and v are cut from one tensor [3, B, H, S, d] and q is scaled by ``d^-0.5`` before
the scores. The scale goes into q's columns of the qkv linear (or into the affine part of q's
norm), ``(x W_q + b_q) s = x (W_q s) + b_q s``: one elementwise kernel fewer in every block, and on
the side of the scores where TensorRT's fused attention wants it. Then q, k and v are cut from the
linear's output [B, S, 3 H d] and transposed each by itself, k at once to [B, H, d, S]: nothing is
copied twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...graphs.attention import matmuls_around
from ...graphs.weights import (
    add_constant,
    constant,
    dims,
    insert_before,
    made_by,
    replace_node,
    reshape,
    sole_user,
    transpose,
)
from ..graph_pass import GraphPass, Sites

HEADS_FIRST = (2, 0, 3, 1, 4)  # (B, S, 3, H, d) to (3, B, H, S, d)
SWAP_LAST = (0, 1, 3, 2)


@dataclass(frozen=True)
class Attention:
    """The nodes of one attention.

    Attributes:
        heads_first: The Transpose of qkv to [3, B, H, S, d].
        parts: The Squeezes that give q, k and v.
        scale: The Mul that scales q.
        transpose_k: The Transpose of k to [B, H, d, S].
    """

    heads_first: ir.Node
    parts: tuple[ir.Node, ir.Node, ir.Node]
    scale: ir.Node
    transpose_k: ir.Node


def fuse_attention(graph: ir.Graph) -> Sites:
    sites = Sites()
    for softmax in [node for node in graph if node.op_type == "Softmax"]:
        attention = find_attention(softmax)
        if isinstance(attention, str):
            sites.skip(softmax, attention)
            continue
        linear = scalable_linear(attention)
        if isinstance(linear, str):
            sites.skip(softmax, linear)
            continue
        sites.rewrite(softmax)
        _fold_scale(graph, attention, linear)
        _cut_early(graph, attention)
    return sites


def find_attention(softmax: ir.Node) -> Attention | str:
    """The attention around a softmax, or why it is none that was traced here."""
    matmuls = matmuls_around(softmax)
    if matmuls is None:
        return "no matmul makes its scores, or none uses them"
    product, mixed = matmuls
    scale, transpose_k = made_by(product.inputs[0], "Mul"), product.inputs[1]
    swapped = made_by(transpose_k, "Transpose", perm=SWAP_LAST)
    factor = constant(scale.inputs[1]) if scale is not None else None
    if scale is None or factor is None or factor.size != 1 or swapped is None:
        return "q is not scaled by one constant, or k is not transposed"
    parts = [
        made_by(_before_norm(value), "Squeeze")
        for value in (scale.inputs[0], swapped.inputs[0], mixed.inputs[1])
    ]
    slices = [made_by(part.inputs[0], "Slice") if part is not None else None for part in parts]
    sources = {part.inputs[0] if part is not None else None for part in slices}
    heads_first = (
        made_by(sources.pop(), "Transpose", perm=HEADS_FIRST) if len(sources) == 1 else None
    )
    q, k, v = parts
    cut = made_by(heads_first.inputs[0], "Reshape") if heads_first is not None else None
    if heads_first is None or cut is None or q is None or k is None or v is None:
        return "q, k and v are not cut from one tensor [B, S, 3, H, d]"
    starts = [constant(part.inputs[1]) for part in slices if part is not None]
    if any(start is None or start.tolist() != [index] for index, start in enumerate(starts)):
        return "its tensor does not hold q, k and v in this order"
    if len(heads_first.outputs[0].uses()) > 3 or sole_user(scale.inputs[0]) is None:  # type: ignore[arg-type]
        return "q, k and v feed other nodes too"
    return Attention(heads_first, (q, k, v), scale, swapped)


def scalable_linear(attention: Attention) -> tuple[ir.Node, ir.Node] | ir.Node | str:
    """What takes the scale: the MatMul and Add that make qkv, q's norm, or why none can."""
    norm = made_by(attention.scale.inputs[0], "LayerNormalization")
    if norm is not None:
        if any(constant(value) is None for value in norm.inputs[1:]):
            return "the affine part of q's norm is no constant"
        return norm
    cut = made_by(attention.heads_first.inputs[0], "Reshape")
    value = cut.inputs[0] if cut is not None else None
    split = made_by(value, "Split")
    if split is not None and split.outputs[0] is value:
        value = split.inputs[0]
    add = made_by(value, "Add")
    matmul = made_by(add.inputs[0], "MatMul") if add is not None else None
    if add is None or matmul is None:
        return "no linear with constant weights makes qkv"
    if constant(matmul.inputs[1]) is None or constant(add.inputs[1]) is None:
        return "no linear with constant weights makes qkv"
    return matmul, add


def _before_norm(value: ir.Value | None) -> ir.Value | None:
    norm = made_by(value, "LayerNormalization")
    return norm.inputs[0] if norm is not None else value


def _fold_scale(
    graph: ir.Graph, attention: Attention, linear: tuple[ir.Node, ir.Node] | ir.Node
) -> None:
    scale = constant(attention.scale.inputs[1])
    assert scale is not None
    factor = float(scale.item())
    if isinstance(linear, tuple):
        _, _, heads, _, dim = dims(attention.heads_first.outputs[0])
        for node in linear:
            _scale_input(graph, node, 1, factor, heads * dim)
    else:
        for index in range(1, len(linear.inputs)):
            _scale_input(graph, linear, index, factor, None)
    source = attention.scale.inputs[0]
    assert source is not None
    replace_node(graph, attention.scale, source)


def _scale_input(
    graph: ir.Graph, node: ir.Node, index: int, factor: float, columns: int | None
) -> None:
    old = node.inputs[index]
    array = constant(old)
    assert old is not None
    assert array is not None
    scaled = array.copy()
    scaled[..., :columns] = array[..., :columns].astype(np.float64) * factor
    node.replace_input_with(index, add_constant(graph, f"{old.name}_scaled", scaled))


def _cut_early(graph: ir.Graph, attention: Attention) -> None:
    """Cut qkv where the linear made it, and transpose each part once."""
    cut = made_by(attention.heads_first.inputs[0], "Reshape")
    assert cut is not None
    source = cut.inputs[0]
    assert source is not None
    _, batch, heads, tokens, dim = dims(attention.heads_first.outputs[0])
    width = heads * dim
    node = attention.heads_first
    parts = _split(graph, node, source, width)
    q, k, v = (reshape(graph, node, part, (batch, tokens, heads, dim)) for part in parts)
    key = attention.parts[1]
    swapped = attention.transpose_k
    replace_node(graph, attention.parts[0], transpose(graph, node, q, (0, 2, 1, 3)))
    replace_node(graph, attention.parts[2], transpose(graph, node, v, (0, 2, 1, 3)))
    if swapped.inputs[0] is key.outputs[0]:
        replace_node(graph, swapped, transpose(graph, node, k, (0, 2, 3, 1)))
    else:
        replace_node(graph, key, transpose(graph, node, k, (0, 2, 1, 3)))


def _split(graph: ir.Graph, before: ir.Node, source: ir.Value, width: int) -> list[ir.Value]:
    sizes = add_constant(graph, f"split_{width}", np.array([width] * 3, np.int64))
    node = ir.node("Split", [source, sizes], attributes={"axis": 2}, num_outputs=3)
    for output in node.outputs:
        output.shape = ir.Shape((*dims(source)[:2], width))
        output.type = source.type
    insert_before(graph, before, node)
    return list(node.outputs)


FUSE_ATTENTION = GraphPass("fuse_attention", fuse_attention, tolerance=1e-5)
