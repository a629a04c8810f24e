"""Make q by a linear of its own, and k, v and the bridge's channels by one batch of matmuls.

    [q k v] = x W + b    ->    q = h W_q + b_q,    [k; v; u] = h [W_k; W_v; I]

Here x is the attention's share of the normed tokens h, and u the bridge's: the weights have rows of
zeros for the channels that each does not read. TensorRT's fused attention reads the parts of a
batch in place, where it moves the columns of one wide matmul into tensors of their own; and a norm
is one kernel where what it writes is read whole. What the bias of k adds is the same for all keys
of a query, which a softmax does not see; the bias of v, whose weights sum to 1, is added behind the
attention, in the projection's bias. Runs after place_major, whose rows it needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...graphs.attention import find_attention
from ...graphs.weights import (
    Weight,
    add_constant,
    constant,
    dims,
    first_input,
    insert,
    insert_before,
    is_constant,
    made_by,
    reshape,
    sole_user,
)
from ..graph_pass import GraphPass, Sites


@dataclass(frozen=True)
class Linear:
    """``x @ weight + bias`` on rows.

    Attributes:
        matmul: Its MatMul.
        add: The Add of its bias, whose second input that is.
    """

    matmul: ir.Node
    add: ir.Node

    @property
    def weight(self) -> Weight:
        return _array(self.matmul.inputs[1])

    @property
    def bias(self) -> Weight:
        return _array(self.add.inputs[1])


@dataclass(frozen=True)
class Site:
    """An attention with the linears around it.

    Attributes:
        cut: The Split of what the linear makes into q, k and v.
        made: The linear of q, k and v.
        apart: The Split of the normed tokens into the attention's share and the bridge's, or None.
        projection: The linear behind the attention.
        rows: Of the projection's weight, those that read the attention.
    """

    cut: ir.Node
    made: Linear
    apart: ir.Node | None
    projection: Linear
    rows: slice


def batch_projections(graph: ir.Graph) -> Sites:
    sites = Sites()
    for softmax in [node for node in graph if node.op_type == "Softmax"]:
        site = find_site(softmax)
        if isinstance(site, str):
            sites.skip(softmax, site)
        else:
            sites.rewrite(softmax)
            _rewrite(graph, site)
    return sites


def find_site(softmax: ir.Node) -> Site | str:
    """The linears around the attention of a softmax, or why they cannot be taken apart."""
    found = find_attention(softmax)
    if isinstance(found, str):
        return found
    if found.bias is not None or sole_user(softmax.outputs[0]) is not found.mixed:
        return "its scores have a bias for each head, or its softmax is modulated"
    moves = [operand.moves for operand in found.operands]
    if {tuple(node.op_type for node in each) for each in moves} != {
        ("Reshape", "Transpose", "Reshape", "Split")
    }:
        return "q, k or v is not cut from one linear by fuse_attention"
    cut = moves[0][3]
    if [each[2].inputs[0] for each in moves] != list(cut.outputs) or len(dims(cut.inputs[0])) != 2:
        return "q, k and v are not cut from rows, which place_major makes"
    made = _linear(cut.inputs[0])
    if made is None:
        return "no linear with constant weights makes q, k and v"
    flat = sole_user(found.mixed.outputs[0])
    side_by_side = sole_user(flat.outputs[0]) if flat is not None else None
    joined = sole_user(side_by_side.outputs[0]) if side_by_side is not None else None
    projected = _projection(joined) if joined is not None else None
    if projected is None:
        return "no linear with constant weights reads the attention, to take the bias of v"
    return Site(cut, made, _bridged(made), *projected)


def _bridged(made: Linear) -> ir.Node | None:
    """The Split that gives a linear its share of channels and a narrower bridge the others."""
    apart = made_by(made.matmul.inputs[0], "Split")
    if apart is None or len(apart.outputs) != 2 or apart.outputs[0] is not made.matmul.inputs[0]:
        return None
    return apart if dims(apart.outputs[1])[-1] <= dims(apart.outputs[0])[-1] else None


def _projection(joined: ir.Node) -> tuple[Linear, slice] | None:
    """The linear behind an attention, and which of its weight's rows read it."""
    value, user = joined.outputs[0], sole_user(joined.outputs[0])
    start = 0
    if user is not None and user.op_type == "Concat":
        before = list(user.inputs)[: list(user.inputs).index(value)]
        start = sum(dims(part)[-1] for part in before)
        user = sole_user(user.outputs[0])
    add = sole_user(user.outputs[0]) if user is not None else None
    linear = _linear(add.outputs[0]) if add is not None else None
    if linear is None or linear.matmul is not user:
        return None
    return linear, slice(start, start + dims(value)[-1])


def _linear(value: ir.Value | None) -> Linear | None:
    add = made_by(value, "Add")
    matmul = made_by(add.inputs[0], "MatMul") if add is not None else None
    if add is None or matmul is None or sole_user(matmul.outputs[0]) is not add:
        return None
    if not is_constant(matmul.inputs[1]) or not is_constant(add.inputs[1]):
        return None
    return Linear(matmul, add)


def _rewrite(graph: ir.Graph, site: Site) -> None:
    place, made = site.made.matmul, site.made
    width = made.weight.shape[1] // 3
    query, key, value = np.split(made.weight, 3, axis=1)
    query_bias, _, value_bias = np.split(made.bias, 3)
    source, parts = first_input(place), [key, value]
    if site.apart is not None:
        source = first_input(site.apart)
        bridge = dims(site.apart.outputs[1])[-1]
        more = np.zeros((bridge, width), query.dtype)
        query, *parts = (np.concatenate([part, more]) for part in (query, *parts))
        parts.append(np.eye(len(query), width, -width, query.dtype))
    q, *others = site.cut.outputs
    made_q = _add(graph, place, _multiply(graph, place, source, query, "q.weight"), query_bias)
    q.replace_all_uses_with(made_q)
    batch = _batch(graph, place, source, np.stack(parts))
    for old, new in zip(others, batch, strict=False):
        old.replace_all_uses_with(new)
    if site.apart is not None:
        _feed_bridge(graph, site.apart, batch[2], place)
    _add_to_bias(graph, site.projection, value_bias, site.rows)


def _multiply(
    graph: ir.Graph, before: ir.Node, value: ir.Value, weight: Weight, name: str
) -> ir.Value:
    shape = (*weight.shape[:-2], dims(value)[-2], weight.shape[-1])
    named = f"{str(before.inputs[1].name).removesuffix('weight')}{name}"  # type: ignore[union-attr]
    return insert(graph, before, "MatMul", [value, add_constant(graph, named, weight)], shape)


def _add(graph: ir.Graph, before: ir.Node, value: ir.Value, bias: Weight) -> ir.Value:
    return insert(graph, before, "Add", [value, add_constant(graph, "q.bias", bias)], dims(value))


def _batch(graph: ir.Graph, before: ir.Node, source: ir.Value, weights: Weight) -> list[ir.Value]:
    """What each of the weights [part, D, A] makes of rows, [1, row, A]."""
    count, _, width = weights.shape
    one = reshape(graph, before, source, (1, *dims(source)))
    made = _multiply(graph, before, one, weights, "batch.weight")
    node = ir.node("Split", [made], attributes={"axis": 0, "num_outputs": count}, num_outputs=count)
    for output in node.outputs:
        output.shape, output.type = ir.Shape((1, dims(source)[0], width)), source.type
    insert_before(graph, before, node)
    return list(node.outputs)


def _feed_bridge(graph: ir.Graph, apart: ir.Node, made: ir.Value, before: ir.Node) -> None:
    """Let the bridge read its channels from its part of a batch, in the place of the Split."""
    old = apart.outputs[1]
    rows, bridge = dims(old)
    flat = reshape(graph, before, made, (rows, dims(made)[-1]))
    numbers = (("starts", 0), ("ends", bridge), ("axes", 1))
    limits = [add_constant(graph, name, np.array([number], np.int64)) for name, number in numbers]
    new = insert(graph, before, "Slice", [flat, *limits], (rows, bridge))
    old.replace_all_uses_with(new)


def _add_to_bias(graph: ir.Graph, linear: Linear, more: Weight, rows: slice) -> None:
    old = linear.add.inputs[1]
    assert old is not None
    total = linear.bias + more.astype(np.float64) @ linear.weight[rows].astype(np.float64)
    new = add_constant(graph, f"{old.name}_folded", total.astype(linear.bias.dtype))
    linear.add.replace_input_with(1, new)


def _array(value: ir.Value | None) -> Weight:
    array = constant(value)
    assert array is not None
    return array


BATCH_PROJECTIONS = GraphPass("batch_projections", batch_projections, tolerance=1e-5)
