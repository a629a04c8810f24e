"""Put one attention operator in the place of matmul, softmax and matmul, where a target has one.

``softmax(q k^T + b) v`` over heads is one node in two dialects:

- ``com.microsoft`` ``MultiHeadAttention`` of ONNX Runtime, on q, k and v as the linear made them,
  [B, S, H d]: the transposes to heads and back go too.
- ``Attention`` of ONNX opset 23, on [B, H, S, d].

Both get scale 1, since q is scaled already. Runs after fuse_attention, whose form it looks for.
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
    insert,
    insert_before,
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
SWAP_LAST = (0, 1, 3, 2)
MICROSOFT = "com.microsoft"
ATTENTION_OPSET = 23


@dataclass(frozen=True)
class Attention:
    """A decomposed attention.

    Attributes:
        mixed: The MatMul of the weights with v, [B, H, S, d].
        q: [B, H, S, d], scaled.
        k: [B, H, S, d].
        v: [B, H, S, d].
        bias: What is added to the scores, [H, S, S], or None.
    """

    mixed: ir.Node
    q: ir.Value
    k: ir.Value
    v: ir.Value
    bias: ir.Value | None


def find_attention(graph: ir.Graph, softmax: ir.Node) -> Attention | str:
    """The attention around a softmax, or why it has no operator."""
    user = sole_user(softmax.outputs[0])
    if user is not None and user.op_type == "Mul":
        return "its softmax is modulated, for which no operator has an input"
    matmuls = matmuls_around(softmax)
    if matmuls is None:
        return "no matmul makes its scores, or none uses them"
    product, mixed = matmuls
    biased = made_by(softmax.inputs[0], "Add")
    bias = biased.inputs[1] if biased is not None else None
    q, keys, v = product.inputs[0], product.inputs[1], mixed.inputs[1]
    if bias is not None and constant(bias) is None:
        return "the bias of its scores is no constant"
    k = _upright(graph, keys)
    if q is None or k is None or v is None:
        return "k is not transposed"
    return Attention(mixed, q, k, v, bias)


def multi_head_attention(graph: ir.Graph) -> Sites:
    """``MultiHeadAttention``, where q, k and v come from a linear without a norm between."""
    sites = Sites()
    for softmax in [node for node in graph if node.op_type == "Softmax"]:
        found = find_attention(graph, softmax)
        if isinstance(found, str):
            sites.skip(softmax, found)
            continue
        flat = [_before_heads(value) for value in (found.q, found.k, found.v)]
        after = sole_user(found.mixed.outputs[0])
        if any(value is None for value in flat):
            sites.skip(softmax, "q, k or v is normalised per head, or not cut by fuse_attention")
        elif after is None or not is_op(after, "Transpose", perm=HEADS):
            sites.skip(softmax, "its heads are not put side by side again")
        else:
            sites.rewrite(softmax)
            _put_multi_head_attention(graph, found, [v for v in flat if v is not None], after)
    return sites


def onnx_attention(graph: ir.Graph) -> Sites:
    """``Attention`` of opset 23."""
    sites = Sites()
    for softmax in [node for node in graph if node.op_type == "Softmax"]:
        found = find_attention(graph, softmax)
        if isinstance(found, str):
            sites.skip(softmax, found)
            continue
        if graph.opset_imports[""] < ATTENTION_OPSET:
            sites.skip(softmax, f"the graph's opset is below {ATTENTION_OPSET}")
            continue
        sites.rewrite(softmax)
        inputs = [found.q, found.k, found.v]
        if found.bias is not None:
            inputs.append(found.bias)
        shape = dims(found.mixed.outputs[0])
        fused = insert(graph, found.mixed, "Attention", inputs, shape, scale=1.0)
        replace_node(graph, found.mixed, fused)
    return sites


def _upright(graph: ir.Graph, keys: ir.Value | None) -> ir.Value | None:
    """k as [B, H, S, d], before it was transposed for the scores."""
    swapped = made_by(keys, "Transpose", perm=SWAP_LAST)
    if swapped is not None:
        return swapped.inputs[0]
    cut = made_by(keys, "Transpose", perm=HEADS_OF_K)
    if cut is None or cut.inputs[0] is None:
        return None
    return transpose(graph, cut, cut.inputs[0], HEADS)


def _before_heads(value: ir.Value) -> ir.Value | None:
    """The [B, S, H, d] behind a [B, H, S, d], where only a transpose lies between."""
    heads = made_by(value, "Transpose", perm=HEADS)
    return heads.inputs[0] if heads is not None else None


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
    node.outputs[0].type = found.v.type
    insert_before(graph, after, node)
    graph.opset_imports[MICROSOFT] = 1
    replace_node(graph, after, reshape(graph, after, node.outputs[0], (batch, tokens, heads, dim)))


MULTI_HEAD_ATTENTION = GraphPass("multi_head_attention", multi_head_attention, tolerance=1e-5)
ONNX_ATTENTION = GraphPass("onnx_attention", onnx_attention, tolerance=1e-5)
