"""Pad the heads of an attention with zeros to a size that fused attention kernels have.

DiT-XL has heads of 72 channels and EDT of 52. Zero columns in q's, k's and v's weights and biases
make zero channels; they add nothing to the scores, and what they mix is zero again, which meets
zero rows in the output projection:

    q k^T = [q 0] [k 0]^T        W [q k v] -> W [q 0 k 0 v 0]        y W_o = [y 0] [W_o; 0]

The scale stays that of the size the model was trained with: it is in q's weights already, for this
runs after fuse_attention, whose form it looks for. Exact in real numbers; the matmuls only add
zeros, in another order. It trades multiplications for kernels: off where that was not measured to
pay (`export.target`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...graphs.attention import find_attention
from ...graphs.weights import Weight, add_constant, constant, dims, is_op, made_by, sole_user
from ..graph_pass import GraphPass, Sites

MULTIPLE = 16  # of the head sizes that fp16 and int8 tensor cores take without a remainder
SPLIT_HEADS = (0, 2, 1, 3)  # (B, S, H, d) to (B, H, S, d), and back


@dataclass(frozen=True)
class HeadSizes:
    """What holds the size of a head around one attention.

    Attributes:
        linear: The MatMul that makes q, k and v side by side.
        bias: The Add of its bias.
        cut: The Split into q, k and v.
        heads: The Reshapes of q, k and v to heads.
        mixed: The MatMul of the weights with v.
        merge: The Transpose after it, and the Reshape that puts the heads side by side.
        proj: The MatMul of the output projection.
    """

    linear: ir.Node
    bias: ir.Node
    cut: ir.Node
    heads: tuple[ir.Node, ...]
    mixed: ir.Node
    merge: tuple[ir.Node, ir.Node]
    proj: ir.Node


def pad_heads(graph: ir.Graph) -> Sites:
    sites = Sites()
    for softmax in [node for node in graph if node.op_type == "Softmax"]:
        found = find_sizes(softmax)
        if isinstance(found, str):
            sites.skip(softmax, found)
            continue
        size = dims(found.heads[0].outputs[0])[3]
        if size % MULTIPLE == 0:
            sites.skip(softmax, f"its heads of {size} channels are a multiple of {MULTIPLE}")
            continue
        sites.rewrite(softmax)
        _pad(graph, found, size, padded_size(size))
    return sites


def padded_size(size: int) -> int:
    """The next multiple: 72 channels become 80, and 52 become 64."""
    return -(-size // MULTIPLE) * MULTIPLE


def find_sizes(softmax: ir.Node) -> HeadSizes | str:
    """What holds the size of a head around a softmax, or why it cannot be padded."""
    attention = find_attention(softmax)
    if isinstance(attention, str):
        return attention
    if attention.q.rope or attention.k.rope:
        return "q and k are turned by RoPE, whose tables have the size of a head"
    parts = [_before_heads(operand.value) for operand in attention.operands]
    heads = tuple(part for part in parts if part is not None)
    cuts = {made_by(part.inputs[0], "Split", axis=2) for part in heads}
    cut = cuts.pop() if len(cuts) == 1 else None
    if len(heads) < 3 or cut is None:
        return "q, k or v is normalised per head, or not cut by fuse_attention"
    if [part.inputs[0] for part in heads] != list(cut.outputs):
        return "its linear makes more than q, k and v, or feeds other nodes too"
    if any(sole_user(output) is None for output in cut.outputs):
        return "its linear makes more than q, k and v, or feeds other nodes too"
    return _with_linears(cut, heads, attention.mixed)


def _with_linears(cut: ir.Node, heads: tuple[ir.Node, ...], mixed: ir.Node) -> HeadSizes | str:
    """The linears on both sides of an attention, where both have constant weights."""
    bias = made_by(cut.inputs[0], "Add")
    linear = made_by(bias.inputs[0], "MatMul") if bias is not None else None
    if bias is None or linear is None or sole_user(bias.outputs[0]) is not cut:
        return "no linear of its own makes q, k and v"
    if constant(linear.inputs[1]) is None or constant(bias.inputs[1]) is None:
        return "no linear of its own makes q, k and v"
    turned = sole_user(mixed.outputs[0])
    flat = sole_user(turned.outputs[0]) if turned is not None else None
    proj = sole_user(flat.outputs[0]) if flat is not None else None
    if turned is None or flat is None or proj is None:
        return "no projection of its own reads its heads"
    shape = _flattened(heads[0])
    if not is_op(turned, "Transpose", perm=SPLIT_HEADS):
        return "no projection of its own reads its heads"
    if (flat.op_type, proj.op_type) != ("Reshape", "MatMul"):
        return "no projection of its own reads its heads"
    if constant(proj.inputs[1]) is None or dims(flat.outputs[0]) != shape:
        return "no projection of its own reads its heads"
    return HeadSizes(linear, bias, cut, heads, mixed, (turned, flat), proj)


def _before_heads(value: ir.Value) -> ir.Node | None:
    """The Reshape to heads behind q, k or v, where only its transpose stands between."""
    turned = made_by(value, "Transpose")
    heads = made_by(turned.inputs[0], "Reshape") if turned is not None else None
    if turned is None or heads is None or len(dims(heads.outputs[0])) != 4:
        return None
    if sole_user(heads.outputs[0]) is not turned or sole_user(turned.outputs[0]) is None:
        return None
    return heads


def _flattened(heads: ir.Node) -> tuple[int, ...]:
    batch, tokens, count, size = dims(heads.outputs[0])
    return batch, tokens, count * size


def _pad(graph: ir.Graph, found: HeadSizes, size: int, wider: int) -> None:
    batch, tokens, count, _ = dims(found.heads[0].outputs[0])
    width = count * wider
    for node in (found.linear, found.bias):
        _replace(graph, node, 1, _pad_last(_array(node), (3 * count, size), wider))
        node.outputs[0].shape = ir.Shape((batch, tokens, 3 * width))
    rows = _pad_last(_array(found.proj).T, (count, size), wider).T
    _replace(graph, found.proj, 1, rows)

    sizes = add_constant(graph, f"split_{width}", np.array([width] * 3, np.int64))
    found.cut.replace_input_with(1, sizes)
    for output, heads in zip(found.cut.outputs, found.heads, strict=True):
        output.shape = ir.Shape((batch, tokens, width))
        _reshape_to(graph, heads, (batch, tokens, count, wider))
        turned = sole_user(heads.outputs[0])
        assert turned is not None
        _widen(turned.outputs[0], turned.attributes["perm"].as_ints().index(3), wider)
    turned, flat = found.merge
    _widen(found.mixed.outputs[0], 3, wider)
    _widen(turned.outputs[0], 3, wider)
    _reshape_to(graph, flat, (batch, tokens, width))


def _pad_last(array: Weight, heads: tuple[int, int], wider: int) -> Weight:
    """Zeros behind the channels of every head along the last side."""
    count, size = heads
    split = array.reshape(*array.shape[:-1], count, size)
    around = [(0, 0)] * (split.ndim - 1) + [(0, wider - size)]
    padded = np.pad(split, around)
    return padded.reshape(*array.shape[:-1], count * wider)


def _array(node: ir.Node) -> Weight:
    array = constant(node.inputs[1])
    assert array is not None
    return array


def _replace(graph: ir.Graph, node: ir.Node, index: int, array: Weight) -> None:
    old = node.inputs[index]
    assert old is not None
    node.replace_input_with(index, add_constant(graph, f"{old.name}_padded", array))


def _reshape_to(graph: ir.Graph, node: ir.Node, shape: tuple[int, ...]) -> None:
    target = add_constant(graph, f"shape_{'x'.join(map(str, shape))}", np.array(shape, np.int64))
    node.replace_input_with(1, target)
    node.outputs[0].shape = ir.Shape(shape)


def _widen(value: ir.Value, axis: int, wider: int) -> None:
    """Note the new size of a head, on the axis where a value has it."""
    sides = list(dims(value))
    sides[axis] = wider
    value.shape = ir.Shape(sides)


PAD_HEADS = GraphPass("pad_heads", pad_heads, tolerance=1e-5)
