"""Fold the bridge convolution into the window-attention block.

With ``u`` the depthwise convolution's output, ``P = [P_w; P_b]`` the output projection's rows for
the attention's and the bridge's channels, and ``(PW, b_pw)`` the pointwise convolution:

1. High-pass: ``dw(x) - mean_k(x)`` is ``dw`` with ``1 / k^2`` taken off each tap. Exact where the
   mean counts the padding, as the convolution's zeros do.
2. BatchNorm after ``dw``: ``s (dw(x) - m) + t`` is a ``dw`` with ``s * weight`` and
   ``s (bias - m) + t``. Exact.
3. Pointwise: ``(PW u + b_pw) P_b = u (PW^T P_b) + b_pw P_b``. Exact, whatever made ``u``. Where
   the bridge is added to the attention, the sum becomes two blocks of rows:
   ``(a + PW u) P = [a, u] [P; PW^T P]``.
4. The bias of ``dw``: ``(dw(x) + b) P_b = dw(x) P_b + b P_b``. Exact where no activation follows.
5. Channels rolled before the projection: the projection's rows roll instead. Exact.

After it a block is one matmul, window attention beside one depthwise convolution, one matmul.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...graphs.convolution import is_depthwise, weight_and_bias
from ...graphs.weights import (
    Weight,
    add_constant,
    constant,
    dims,
    insert,
    is_op,
    made_by,
    replace_node,
    sole_user,
)
from ..graph_pass import GraphPass, Sites

TOKENS_LAST = (0, 2, 1)
BORDER = {"auto_pad": "NOTSET", "pads": (0,) * 4, "strides": (1, 1), "dilations": (1, 1)}
SHARED = "its output feeds other nodes too"


@dataclass
class Projection:
    """The output projection of a block: ``y @ weight + bias``.

    Attributes:
        matmul: The MatMul.
        add: The Add of its bias.
        rows: Where the bridge's channels stand in the weight.
    """

    matmul: ir.Node
    add: ir.Node
    rows: slice

    @property
    def weight(self) -> Weight:
        array = constant(self.matmul.inputs[1])
        assert array is not None
        return array

    def set_weight(self, graph: ir.Graph, weight: Weight) -> None:
        old = self.matmul.inputs[1]
        assert old is not None
        self.matmul.replace_input_with(1, add_constant(graph, f"{old.name}_folded", weight))

    def add_bias(self, graph: ir.Graph, more: Weight) -> None:
        index = _bias_index(self.add)
        old = self.add.inputs[index]
        bias = constant(old)
        assert bias is not None
        assert old is not None
        total = (bias.astype(np.float64) + more).astype(bias.dtype)
        self.add.replace_input_with(index, add_constant(graph, f"{old.name}_folded", total))


def fold_bridge(graph: ir.Graph) -> Sites:
    sites = Sites()
    for depthwise in [node for node in graph if is_depthwise(node)]:
        output = _fold_highpass(graph, depthwise, sites)
        _fold_norm(graph, depthwise, output, sites)
    for matmul in [node for node in graph if node.op_type == "MatMul"]:
        _fold_roll(graph, matmul, sites)
        projection = find_projection(matmul)
        if projection is not None:
            _fold_into(graph, projection, sites)
    return sites


def find_projection(matmul: ir.Node) -> Projection | None:
    """The output projection that a MatMul is, where a bridge feeds it; None elsewhere."""
    joined = _made_by_join(matmul.inputs[0]) or made_by(matmul.inputs[0], "Add")
    add = sole_user(matmul.outputs[0])
    if joined is None or add is None or add.op_type != "Add" or constant(matmul.inputs[1]) is None:
        return None
    if constant(add.inputs[_bias_index(add)]) is None or bridge_end(joined) is None:
        return None
    if joined.op_type == "Add":
        return Projection(matmul, add, slice(0, dims(matmul.inputs[1])[0]))
    start = dims(joined.inputs[0])[-1]
    return Projection(matmul, add, slice(start, start + dims(joined.inputs[1])[-1]))


def bridge_end(joined: ir.Node) -> ir.Node | None:
    """The Reshape that flattens the bridge's grid, behind the second operand of a join."""
    if len(joined.inputs) != 2:
        return None
    transpose = made_by(joined.inputs[1], "Transpose", perm=TOKENS_LAST)
    flatten = made_by(transpose.inputs[0], "Reshape") if transpose is not None else None
    if flatten is None or len(dims(flatten.inputs[0])) != 4:
        return None
    return flatten


def _fold_highpass(graph: ir.Graph, depthwise: ir.Node, sites: Sites) -> ir.Value:
    """Fold the mean that is taken off, and return what then stands for the convolution."""
    output = depthwise.outputs[0]
    subtract = sole_user(output)
    if subtract is None or subtract.op_type != "Sub":
        return output
    mean = made_by(subtract.inputs[1], "AveragePool")
    kernel = dims(depthwise.inputs[1])[2:]
    if mean is None or mean.inputs[0] is not depthwise.inputs[0]:
        sites.skip(subtract, "what is taken off is no mean of the convolution's input")
    elif not is_op(mean, "AveragePool", kernel_shape=kernel, count_include_pad=1) or not (
        _same_border(mean, depthwise)
    ):
        sites.skip(subtract, "the mean and the convolution treat the border differently")
    else:
        sites.rewrite(subtract)
        weight = constant(depthwise.inputs[1])
        assert weight is not None
        taps = weight.astype(np.float64) - 1.0 / float(np.prod(kernel))
        _set_input(graph, depthwise, 1, taps.astype(weight.dtype))
        replace_node(graph, subtract, output)
    return output


def _fold_norm(graph: ir.Graph, depthwise: ir.Node, output: ir.Value, sites: Sites) -> None:
    norm = sole_user(output)
    if norm is None or norm.op_type != "BatchNormalization":
        return
    parameters = [constant(value) for value in norm.inputs[1:5]]
    weight, bias = weight_and_bias(depthwise)
    if weight is None or bias is None or any(array is None for array in parameters):
        sites.skip(norm, "its statistics or the convolution's weights are no constants")
        return
    sites.rewrite(norm)
    scale, shift, mean, variance = (np.asarray(array, np.float64) for array in parameters)
    epsilon = norm.attributes["epsilon"].as_float() if "epsilon" in norm.attributes else 1e-5
    factor = scale / np.sqrt(variance + epsilon)
    _set_input(graph, depthwise, 1, (weight * factor[:, None, None, None]).astype(weight.dtype))
    _set_bias(graph, depthwise, ((bias - mean) * factor + shift).astype(bias.dtype))
    replace_node(graph, norm, output)


def _fold_roll(graph: ir.Graph, matmul: ir.Node, sites: Sites) -> None:
    """``roll(y, k) @ P`` is ``y @ roll(P, -k)`` over P's rows."""
    joined = _made_by_join(matmul.inputs[0])
    weight = constant(matmul.inputs[1])
    if joined is None or weight is None:
        return
    tail, head = (made_by(value, "Slice") for value in joined.inputs)
    if tail is None or head is None or tail.inputs[0] is not head.inputs[0]:
        return
    source, first = head.inputs[0], dims(head.outputs[0])[-1]
    if source is None or dims(source) != dims(joined.outputs[0]):
        return
    starts = [constant(cut.inputs[1]) for cut in (tail, head)]
    if any(start is None or start.size != 1 for start in starts):
        return
    if [int(start.item()) % dims(source)[-1] for start in starts] != [first, 0]:  # type: ignore[union-attr]
        return
    if len(matmul.inputs[0].uses()) > 1:  # type: ignore[union-attr]
        sites.skip(joined, "the rolled channels feed other nodes too")
        return
    sites.rewrite(joined)
    matmul.replace_input_with(0, source)
    rolled = np.roll(weight, first, axis=0)
    matmul.replace_input_with(1, add_constant(graph, "projection_unrolled", rolled))
    graph.remove([joined, tail, head], safe=True)


def _fold_into(graph: ir.Graph, projection: Projection, sites: Sites) -> None:
    joined = projection.matmul.inputs[0].producer()  # type: ignore[union-attr]
    assert joined is not None
    flatten = bridge_end(joined)
    assert flatten is not None
    pointwise = made_by(flatten.inputs[0], "Conv", group=1, kernel_shape=(1, 1))
    if pointwise is not None:
        if why := why_not_pointwise(projection.matmul, flatten, pointwise):
            sites.skip(pointwise, why)
            return
        sites.rewrite(pointwise)
        _fold_pointwise(graph, projection, joined, flatten, pointwise)
    last = flatten.inputs[0].producer()  # type: ignore[union-attr]
    if last is None:
        return
    if not is_depthwise(last):
        sites.skip(last, "an activation stands between the convolution and the projection")
    elif not all(map(sole_user, (last.outputs[0], *way_to(projection.matmul, flatten)))):
        sites.skip(last, SHARED)
    else:
        _fold_bias(graph, projection, last, sites)


def why_not_pointwise(matmul: ir.Node, flatten: ir.Node, pointwise: ir.Node) -> str | None:
    """Say why a pointwise convolution must stay, or None where folding it is safe."""
    if any(array is None for array in weight_and_bias(pointwise)):
        return "its weights are no constants"
    if not all(map(sole_user, (pointwise.outputs[0], *way_to(matmul, flatten)))):
        return SHARED
    return None


def way_to(matmul: ir.Node, flatten: ir.Node) -> tuple[ir.Value, ...]:
    """What stands between the bridge's flattened grid and the projection."""
    joined = matmul.inputs[0]
    assert joined is not None
    tokens = joined.producer().inputs[1]  # type: ignore[union-attr]
    assert tokens is not None
    return flatten.outputs[0], tokens, joined


def _fold_pointwise(
    graph: ir.Graph,
    projection: Projection,
    joined: ir.Node,
    flatten: ir.Node,
    pointwise: ir.Node,
) -> None:
    kernel, bias = weight_and_bias(pointwise)
    assert kernel is not None
    assert bias is not None
    weight, rows = projection.weight, projection.rows
    projected = weight[rows].astype(np.float64)
    mixed = (kernel[:, :, 0, 0].astype(np.float64).T @ projected).astype(weight.dtype)
    projection.add_bias(graph, bias.astype(np.float64) @ projected)
    flatten.replace_input_with(0, pointwise.inputs[0])
    graph.remove(pointwise, safe=True)
    if joined.op_type == "Concat":
        folded = weight.copy()
        folded[rows] = mixed
        projection.set_weight(graph, folded)
        return
    attention, bridge = joined.inputs
    assert attention is not None
    assert bridge is not None
    shape = (*dims(attention)[:-1], 2 * dims(attention)[-1])
    side_by_side = insert(graph, joined, "Concat", [attention, bridge], shape, axis=2)
    projection.matmul.replace_input_with(0, side_by_side)
    graph.remove(joined, safe=True)
    projection.set_weight(graph, np.concatenate([weight, mixed]))
    projection.rows = slice(len(weight), 2 * len(weight))


def _fold_bias(graph: ir.Graph, projection: Projection, depthwise: ir.Node, sites: Sites) -> None:
    bias = constant(depthwise.inputs[2]) if len(depthwise.inputs) > 2 else None
    if bias is None:
        return
    sites.rewrite(depthwise)
    projected = projection.weight[projection.rows].astype(np.float64)
    projection.add_bias(graph, bias.astype(np.float64) @ projected)
    depthwise.resize_inputs(2)


def _set_bias(graph: ir.Graph, convolution: ir.Node, bias: Weight) -> None:
    old = convolution.inputs[-1]
    assert old is not None
    convolution.resize_inputs(3)
    convolution.replace_input_with(2, add_constant(graph, f"{old.name}_folded", bias))


def _set_input(graph: ir.Graph, node: ir.Node, index: int, array: Weight) -> None:
    old = node.inputs[index]
    assert old is not None
    node.replace_input_with(index, add_constant(graph, f"{old.name}_folded", array))


def _bias_index(add: ir.Node) -> int:
    return 0 if constant(add.inputs[0]) is not None else 1


def _made_by_join(value: ir.Value | None) -> ir.Node | None:
    """The Concat of two halves of the channels of (N, T, D) that makes a value."""
    joined = made_by(value, "Concat", axis=2) or made_by(value, "Concat", axis=-1)
    return joined if joined is not None and len(joined.inputs) == 2 else None


def _same_border(pool: ir.Node, convolution: ir.Node) -> bool:
    """Whether two windows of one kernel see the same places of the padded grid."""
    return all(
        _setting(pool, name, default) == _setting(convolution, name, default)
        for name, default in BORDER.items()
    )


def _setting(node: ir.Node, name: str, default: object) -> object:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.value


FOLD_BRIDGE = GraphPass("fold_bridge", fold_bridge, tolerance=1e-5)
