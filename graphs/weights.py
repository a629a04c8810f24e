"""Reading and writing the constants of a graph, and the small steps that every pass takes.

A node that is put into a graph here belongs to the module of the one in whose place it comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from .scopes import module_of, put_into

Weight = npt.NDArray[Any]


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers."""
    values = model.graph.initializers.values()
    return sum(value.const_value.nbytes for value in values if value.const_value is not None)


def is_constant(value: ir.Value | None) -> bool:
    """Whether what a value holds is known before the graph runs.

    An initializer that is an input too is only a default: whoever runs the graph may feed it.
    """
    return _tensor(value) is not None


def constant(value: ir.Value | None) -> Weight | None:
    """The array behind a constant, or None where a value is none."""
    tensor = _tensor(value)
    return None if tensor is None else tensor.numpy()


def sole_user(value: ir.Value) -> ir.Node | None:
    """The one node that a value feeds, or None where it feeds several, none, or the outside."""
    users = list(value.consumers())
    return users[0] if len(users) == 1 and not value.is_graph_output() else None


def first_input(node: ir.Node) -> ir.Value:
    """What a node reads first, which no node that is met here leaves out."""
    value = node.inputs[0]
    assert value is not None
    return value


def made_by(value: ir.Value | None, op_type: str, **attributes: object) -> ir.Node | None:
    """The node that makes ``value``, where it is of that type and has those attributes."""
    node = None if value is None else value.producer()
    return node if node is not None and is_op(node, op_type, **attributes) else None


def is_op(node: ir.Node, op_type: str, **attributes: object) -> bool:
    """Whether a node is of a type and has attributes of these values (lists as tuples)."""
    if node.op_type != op_type:
        return False
    return all(
        name in node.attributes and _plain(node.attributes[name].value) == value
        for name, value in attributes.items()
    )


def dims(value: ir.Value | None) -> tuple[int, ...]:
    """The static shape of a value."""
    assert value is not None
    assert value.shape is not None
    return value.shape.numpy()


def add_constant(graph: ir.Graph, name: str, array: Weight) -> ir.Value:
    """A new initializer with a name that is not taken."""
    taken = graph.initializers
    unique = name
    for count in range(1, len(taken) + 2):
        if unique not in taken:
            break
        unique = f"{name}_{count}"
    value = ir.Value(name=unique, const_value=ir.tensor(np.asarray(array, order="C"), name=unique))
    value.shape = ir.Shape(array.shape)
    value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
    graph.register_initializer(value)
    return value


def insert(
    graph: ir.Graph,
    before: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value],
    shape: Sequence[int],
    **attributes: object,
) -> ir.Value:
    """Insert a node of one output before another, and return its output."""
    node = ir.node(op_type, inputs, attributes=attributes)  # type: ignore[arg-type]
    output = node.outputs[0]
    output.shape = ir.Shape(shape)
    output.type = inputs[0].type
    insert_before(graph, before, node)
    return output


def insert_before(graph: ir.Graph, place: ir.Node, node: ir.Node) -> None:
    """Put a new node in front of the one whose place it takes."""
    put_into(node, module_of(place))
    graph.insert_before(place, node)


def insert_behind(graph: ir.Graph, value: ir.Value, nodes: Sequence[ir.Node]) -> None:
    """Put new nodes right behind the one that makes a value; first of all for an input."""
    maker = value.producer()
    place = graph[0] if maker is None else maker
    for node in nodes:
        put_into(node, module_of(place))
    if maker is None:
        graph.insert_before(place, nodes)
    else:
        graph.insert_after(place, nodes)


def reshape(graph: ir.Graph, before: ir.Node, value: ir.Value, shape: Sequence[int]) -> ir.Value:
    """Insert a Reshape to a static shape."""
    return insert(graph, before, "Reshape", [value, add_shape(graph, shape)], shape)


def add_shape(graph: ir.Graph, shape: Sequence[int]) -> ir.Value:
    """A new initializer that a Reshape can take its shape from."""
    return add_constant(graph, f"shape_{'x'.join(map(str, shape))}", np.array(shape, np.int64))


def transpose(graph: ir.Graph, before: ir.Node, value: ir.Value, perm: Sequence[int]) -> ir.Value:
    """Insert a Transpose."""
    shape = dims(value)
    return insert(
        graph, before, "Transpose", [value], [shape[axis] for axis in perm], perm=list(perm)
    )


def replace_node(graph: ir.Graph, node: ir.Node, new: ir.Value) -> None:
    """Remove a node of one output; ``new`` feeds whatever it fed, with its name on the outside."""
    [old] = node.outputs
    new.type, new.shape = old.type, old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    if new.is_graph_output():
        new.name, old.name = old.name, None
    graph.remove(node, safe=True)


def _tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    return None if value is None or value.is_graph_input() else value.const_value


def _plain(value: object) -> object:
    return tuple(value) if isinstance(value, list | tuple) else value
