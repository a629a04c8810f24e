"""Put one attention operator in the place of matmul, softmax and matmul, where a target has one.

``softmax(q k^T + b) v`` over heads is one node in two dialects:

- ``com.microsoft`` ``MultiHeadAttention`` of ONNX Runtime, on q, k and v as the linear made them,
  [B, S, H d]: the transposes to heads and back go too.
- ``Attention`` of ONNX opset 23, on [B, H, S, d].

Both get scale 1, since q is scaled already. Runs after fuse_attention, whose form it looks for.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...graphs.attention import Attention, Operand, find_attention
from ...graphs.weights import (
    add_constant,
    constant,
    dims,
    first_input,
    insert,
    insert_before,
    is_constant,
    is_op,
    made_by,
    replace_node,
    reshape,
    sole_user,
    transpose,
)
from ..graph_pass import GraphPass, Sites

HEADS = (0, 2, 1, 3)  # (B, S, H, d) to (B, H, S, d), and back
HEADS_OF_K = (0, 2, 3, 1)  # (B, S, H, d) to (B, H, d, S)
MICROSOFT = "com.microsoft"
ATTENTION_OPSET = 23


def find_operator(softmax: ir.Node) -> Attention | str:
    """The attention around a softmax, or why it has no operator."""
    user = sole_user(softmax.outputs[0])
    if user is not None and user.op_type == "Mul":
        return "its softmax is modulated, for which no operator has an input"
    found = find_attention(softmax)
    if isinstance(found, str):
        return found
    if found.bias is not None and not is_constant(found.bias):
        return "the bias of its scores is no constant"
    if found.k.scale is not None:
        return "k is scaled too"
    if found.k.swapped is None and made_by(found.k.value, "Transpose", perm=HEADS_OF_K) is None:
        return "k is not transposed"
    return found


def multi_head_attention(graph: ir.Graph) -> Sites:
    """``MultiHeadAttention``, where q, k and v come from a linear without a norm between."""
    sites = Sites()
    for softmax in [node for node in graph if node.op_type == "Softmax"]:
        found = find_operator(softmax)
        if isinstance(found, str):
            sites.skip(softmax, found)
            continue
        flat, after = _flat(found), sole_user(found.mixed.outputs[0])
        if found.q.rope or found.k.rope:
            sites.skip(softmax, "q and k are turned by RoPE, for which the operator has no input")
        elif flat is None:
            sites.skip(softmax, "q, k or v is normalised per head, or not cut by fuse_attention")
        elif after is None or not is_op(after, "Transpose", perm=HEADS):
            sites.skip(softmax, "its heads are not put side by side again")
        else:
            sites.rewrite(softmax)
            _put_multi_head_attention(graph, found, flat, after)
    return sites


def onnx_attention(graph: ir.Graph) -> Sites:
    """``Attention`` of opset 23."""
    sites = Sites()
    for softmax in [node for node in graph if node.op_type == "Softmax"]:
        found = find_operator(softmax)
        if isinstance(found, str):
            sites.skip(softmax, found)
            continue
        if graph.opset_imports[""] < ATTENTION_OPSET:
            sites.skip(softmax, f"the graph's opset is below {ATTENTION_OPSET}")
            continue
        sites.rewrite(softmax)
        inputs = [found.q.value, _upright(graph, found.k), found.v.value]
        if found.bias is not None:
            inputs.append(found.bias)
        shape = dims(found.mixed.outputs[0])
        fused = insert(graph, found.mixed, "Attention", inputs, shape, scale=1.0)
        replace_node(graph, found.mixed, fused)
    return sites


def _flat(found: Attention) -> list[ir.Value] | None:
    """q, k and v as [B, S, H, d], where a transpose alone makes the heads of all three."""
    k = made_by(found.k.value, "Transpose", perm=HEADS_OF_K)
    if found.k.swapped is not None:
        k = made_by(found.k.swapped.inputs[0], "Transpose", perm=HEADS)
    q, v = (made_by(one.value, "Transpose", perm=HEADS) for one in (found.q, found.v))
    values = [first_input(node) for node in (q, k, v) if node is not None]
    return values if len(values) == 3 else None


def _upright(graph: ir.Graph, k: Operand) -> ir.Value:
    """k as [B, H, S, d], before it was transposed for the scores."""
    if k.swapped is not None:
        return first_input(k.swapped)
    turned = k.moves[0]
    return transpose(graph, turned, first_input(turned), HEADS)


def _put_multi_head_attention(
    graph: ir.Graph, found: Attention, parts: list[ir.Value], after: ir.Node
) -> None:
    batch, tokens, heads, dim = dims(parts[0])
    width = heads * dim
    inputs: list[ir.Value | None] = [
        reshape(graph, after, part, (batch, tokens, width)) for part in parts
    ]
    if found.bias is not None:
        bias = constant(found.bias)
        assert bias is not None
        inputs += [None, None, add_constant(graph, "position_bias", bias[np.newaxis])]
    node = ir.node(
        "MultiHeadAttention",
        inputs,
        attributes={"num_heads": heads, "scale": 1.0},
        domain=MICROSOFT,
    )
    node.outputs[0].shape = ir.Shape((batch, tokens, width))
    node.outputs[0].type = found.v.value.type
    insert_before(graph, after, node)
    graph.opset_imports[MICROSOFT] = 1
    replace_node(graph, after, reshape(graph, after, node.outputs[0], (batch, tokens, heads, dim)))


MULTI_HEAD_ATTENTION = GraphPass("multi_head_attention", multi_head_attention, tolerance=1e-5)
ONNX_ATTENTION = GraphPass("onnx_attention", onnx_attention, tolerance=1e-5)
