"""Make one axis of images and heads in front of an attention, and move q, k and v at once.

    [B, S, 3 H d]  ->  [B, S, 3, H, d]  ->  [3, B, H, S, d]  ->  [3, B H, S, d]

TensorRT's builder reads q, k and v by one stride from one head of one image to the next. From the
three cuts that fuse_attention makes it moves each in a kernel of its own, and takes the bias out of
the matmul before; from one tensor it takes all in one kernel, or two fewer a block
(benchmarks/results/engine_forms.json). Nothing is computed otherwise. CPUs gain nothing from it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...graphs.attention import SWAP_LAST, Attention, find_attention
from ...graphs.weights import (
    add_constant,
    dims,
    insert_before,
    is_op,
    made_by,
    reshape,
    sole_user,
    transpose,
)
from ..graph_pass import GraphPass, Sites

SPLIT_HEADS = (0, 2, 1, 3)  # (B, S, H, d) to (B, H, S, d), and back
HEADS_FIRST = (2, 0, 3, 1, 4)  # (B, S, 3, H, d) to (3, B, H, S, d)


def flat_heads(graph: ir.Graph) -> Sites:
    sites = Sites()
    for softmax in [node for node in graph if node.op_type == "Softmax"]:
        found = find_attention(softmax)
        if isinstance(found, str):
            sites.skip(softmax, found)
            continue
        cut = find_cut(softmax, found)
        if isinstance(cut, str):
            sites.skip(softmax, cut)
            continue
        sites.rewrite(softmax)
        _flatten(graph, softmax, found, cut)
    return sites


def find_cut(softmax: ir.Node, found: Attention) -> ir.Node | str:
    """The Split that q, k and v come of, or why they cannot be moved at once."""
    if found.bias is not None:
        return "the bias of its scores is for each head"
    if sole_user(softmax.outputs[0]) is not found.mixed:
        return "its softmax is modulated"
    turned = [operand.value.producer() for operand in found.operands]
    parts = [made_by(node.inputs[0], "Reshape") if node else None for node in turned]
    cuts = {made_by(part.inputs[0], "Split", axis=2) for part in parts if part is not None}
    cut = cuts.pop() if len(cuts) == 1 and None not in parts else None
    if cut is None or [part.inputs[0] for part in parts if part] != list(cut.outputs):
        return "q, k or v is normalised or turned, or not cut by fuse_attention"
    after = sole_user(found.mixed.outputs[0])
    if after is None or not is_op(after, "Transpose", perm=SPLIT_HEADS):
        return "its heads are not put side by side again"
    return cut


def _flatten(graph: ir.Graph, softmax: ir.Node, found: Attention, cut: ir.Node) -> None:
    batch, heads, tokens, dim = dims(found.mixed.outputs[0])
    flat = (1, batch * heads, tokens, dim)
    source = cut.inputs[0]
    assert source is not None
    apart = reshape(graph, cut, source, (batch, tokens, 3, heads, dim))
    moved = reshape(graph, cut, transpose(graph, cut, apart, HEADS_FIRST), (3, *flat[1:]))
    query, key, value = _split(graph, cut, moved, flat)
    scores = softmax.inputs[0]
    assert scores is not None
    product = scores.producer()
    assert product is not None
    product.replace_input_with(0, query)
    product.replace_input_with(1, transpose(graph, cut, key, SWAP_LAST))
    found.mixed.replace_input_with(1, value)
    for node in (product, softmax):
        node.outputs[0].shape = ir.Shape((1, batch * heads, tokens, tokens))
    mixed = found.mixed.outputs[0]
    mixed.shape = ir.Shape(flat)
    [after] = mixed.consumers()
    after.replace_input_with(0, reshape(graph, after, mixed, (batch, heads, tokens, dim)))


def _split(
    graph: ir.Graph, before: ir.Node, moved: ir.Value, shape: tuple[int, ...]
) -> list[ir.Value]:
    sizes = add_constant(graph, "split_heads", np.array([1, 1, 1], np.int64))
    node = ir.node("Split", [moved, sizes], attributes={"axis": 0}, num_outputs=3)
    for output in node.outputs:
        output.shape, output.type = ir.Shape(shape), moved.type
    insert_before(graph, before, node)
    return list(node.outputs)


FLAT_HEADS = GraphPass("flat_heads", flat_heads, tolerance=1e-6)
