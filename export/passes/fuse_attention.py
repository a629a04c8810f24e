"""Give every attention the form that a target's fused kernels know.

Traced, q, k and v are cut from one tensor [3, B, H, S, d] and q is scaled by ``d^-0.5`` before
the scores. The scale goes into q's columns of the qkv linear (or into the affine part of q's
norm), ``(x W_q + b_q) s = x (W_q s) + b_q s``, also through RoPE, which is linear: one elementwise
kernel fewer in every block, and on the side of the scores where TensorRT's fused attention wants
it. Then q, k and v are cut from the
linear's output [B, S, 3 H d] and transposed each by itself, k at once to [B, H, d, S]: nothing is
copied twice.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...graphs.attention import Attention, Operand, find_attention
from ...graphs.blocks import LAYER_NORM
from ...graphs.weights import (
    add_constant,
    constant,
    dims,
    first_input,
    insert_before,
    is_constant,
    is_op,
    made_by,
    replace_node,
    reshape,
    transpose,
)
from ..graph_pass import GraphPass, Sites

HEADS_FIRST = (2, 0, 3, 1, 4)  # (B, S, 3, H, d) to (3, B, H, S, d)
CUT = ("Squeeze", "Slice", "Transpose", "Reshape")  # of q, k and v from qkv, the last first

Taker = tuple[ir.Node, int, int | None]
"""A node, which of its operands is scaled, and how many of its columns; None for all."""


def fuse_attention(graph: ir.Graph) -> Sites:
    sites = Sites()
    for softmax in [node for node in graph if node.op_type == "Softmax"]:
        attention = find_attention(softmax)
        if isinstance(attention, str):
            sites.skip(softmax, attention)
            continue
        takers = find_takers(attention)
        if isinstance(takers, str):
            sites.skip(softmax, takers)
            continue
        sites.rewrite(softmax)
        _fold_scale(graph, attention.q, takers)
        _cut_early(graph, attention)
    return sites


def why_not_fuse(attention: Attention) -> str | None:
    """Why an attention is none that was traced here, or None where it is one."""
    if attention.k.scale is not None:
        return "k is scaled too"
    if attention.q.scale is None or attention.k.swapped is None:
        return "q is not scaled by one constant, or k is not transposed"
    cuts = [operand.moves[:4] for operand in attention.operands]
    sources = {cut[2] if tuple(move.op_type for move in cut) == CUT else None for cut in cuts}
    heads_first = sources.pop() if len(sources) == 1 else None
    if heads_first is None or not is_op(heads_first, "Transpose", perm=HEADS_FIRST):
        return "q, k and v are not cut from one tensor [B, S, 3, H, d]"
    starts = [constant(cut[1].inputs[1]) for cut in cuts]
    if any(start is None or start.tolist() != [index] for index, start in enumerate(starts)):
        return "its tensor does not hold q, k and v in this order"
    if len(heads_first.outputs[0].uses()) > 3 or not _is_private(attention.q):
        return "q, k and v feed other nodes too"
    return None


def _is_private(q: Operand) -> bool:
    """Whether only the scores see what is scaled."""
    inside = {q.scale, *q.rope}
    values = [q.normed, *(output for node in q.rope for output in node.outputs)]
    return not any(value.is_graph_output() or set(value.consumers()) - inside for value in values)


def find_takers(attention: Attention) -> list[Taker] | str:
    """What takes the scale, q's norm or else the linear, or why nothing can."""
    q = attention.q
    if why := why_not_fuse(attention):
        return why
    if q.norm:
        return _affine(q.norm[0])
    value = q.moves[3].inputs[0]
    split = made_by(value, "Split")
    if split is not None and split.outputs[0] is value:
        value = split.inputs[0]
    add = made_by(value, "Add")
    matmul = made_by(add.inputs[0], "MatMul") if add is not None else None
    if add is None or matmul is None:
        return "no linear with constant weights makes qkv"
    if not is_constant(matmul.inputs[1]) or not is_constant(add.inputs[1]):
        return "no linear with constant weights makes qkv"
    _, _, heads, _, dim = dims(q.moves[2].outputs[0])
    return [(node, 1, heads * dim) for node in (matmul, add)]


def _affine(last: ir.Node) -> list[Taker] | str:
    """The affine part of a norm, in its last node."""
    constants = [index for index, value in enumerate(last.inputs) if is_constant(value)]
    if last.op_type == LAYER_NORM and len(constants) < len(last.inputs) - 1:
        return "the affine part of q's norm is no constant"
    if last.op_type not in {LAYER_NORM, "Mul"} or not constants:
        return "q's norm ends in no weight that could take the scale"
    return [(last, index, None) for index in constants]


def _fold_scale(graph: ir.Graph, q: Operand, takers: list[Taker]) -> None:
    assert q.scale is not None
    factor = constant(q.scale.inputs[1])
    assert factor is not None
    for node, index, columns in takers:
        _scale_input(graph, node, index, float(factor.item()), columns)
    replace_node(graph, q.scale, first_input(q.scale))


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
    q_part, k_part, v_part = (operand.moves[0] for operand in attention.operands)
    _, _, node, cut = attention.q.moves[:4]
    swapped = attention.k.swapped
    assert swapped is not None
    _, batch, heads, tokens, dim = dims(node.outputs[0])
    parts = _split(graph, node, first_input(cut), heads * dim)
    q, k, v = (reshape(graph, node, part, (batch, tokens, heads, dim)) for part in parts)
    replace_node(graph, q_part, transpose(graph, node, q, (0, 2, 1, 3)))
    replace_node(graph, v_part, transpose(graph, node, v, (0, 2, 1, 3)))
    if swapped.inputs[0] is k_part.outputs[0]:
        replace_node(graph, swapped, transpose(graph, node, k, (0, 2, 3, 1)))
    else:
        replace_node(graph, k_part, transpose(graph, node, k, (0, 2, 1, 3)))


def _split(graph: ir.Graph, before: ir.Node, source: ir.Value, width: int) -> list[ir.Value]:
    sizes = add_constant(graph, f"split_{width}", np.array([width] * 3, np.int64))
    node = ir.node("Split", [source, sizes], attributes={"axis": 2}, num_outputs=3)
    for output in node.outputs:
        output.shape = ir.Shape((*dims(source)[:2], width))
        output.type = source.type
    insert_before(graph, before, node)
    return list(node.outputs)


FUSE_ATTENTION = GraphPass("fuse_attention", fuse_attention, tolerance=1e-5)
