"""Which weights make and read each channel of an activation, so that a factor can pass over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from ...graphs.interface import MODULATION
from ...graphs.weights import is_constant

MOVES = ("Reshape", "Transpose")  # tokens change places, channels stay


@dataclass(frozen=True)
class Span:
    """Channels ``start`` to ``stop`` of a tensor are entries from ``first`` on of a weight's axis.

    Attributes:
        weight: The initializer.
        axis: Its axis.
        first: The entry of channel ``start``.
        start: The first channel.
        stop: The channel after the last.
    """

    weight: str
    axis: int
    first: int
    start: int
    stop: int


@dataclass(frozen=True)
class Scalable:
    """A tensor whose channels can be divided by constants without a trace.

    Attributes:
        tensor: Its name.
        chunks: The chunks of the modulation, shift and scale, that make all of its channels.
        makers: The weights that make its channels, where no modulation does.
        readers: The weights that read them.
    """

    tensor: str
    chunks: tuple[int, ...]
    makers: tuple[Span, ...]
    readers: tuple[Span, ...]


def find_scalable(graph: ir.Graph) -> list[Scalable]:
    """Every modulated tensor, and every input of a projection, in the graph's order."""
    found = []
    for node in graph:
        value = _flattened(node.outputs[0])
        chunks = _modulation_chunks(node)
        if chunks and (readers := tuple(_readers(value))):
            found.append(Scalable(str(value.name), chunks, (), readers))
        elif weight := _linear_weight(node):
            fed = node.inputs[0]
            assert fed is not None
            makers = tuple(_makers(fed)) if len(fed.uses()) == 1 else ()
            if makers:
                reader = Span(weight, 0, 0, 0, width_of(fed))
                found.append(Scalable(str(fed.name), (), makers, (reader,)))
    return found


def _modulation_chunks(node: ir.Node) -> tuple[int, ...]:
    """Shift and scale of ``Add(Mul(norm, scale), shift)``, as chunks of the modulation."""
    if node.op_type != "Add":
        return ()
    for product, shift in (node.inputs, node.inputs[::-1]):
        made = None if product is None else product.producer()
        if made is None or made.op_type != "Mul" or len(made.outputs[0].uses()) != 1:
            continue
        scales = [index for value in made.inputs if (index := _chunk(value)) is not None]
        if len(scales) == 1 and (moved := _chunk(shift)) is not None:
            return (moved, *scales)
    return ()


def _chunk(value: ir.Value | None) -> int | None:
    """Which chunk of the modulation a value is, where nothing else reads it."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Split" or value is None or len(value.uses()) != 1:
        return None
    source = node.inputs[0]
    return value.index() if source is not None and source.name == MODULATION else None


def _readers(value: ir.Value) -> Iterator[Span]:
    """The weights behind a tensor [batch, token, channel], through a Split of its channels.

    A channel that anything else reads has none, for it cannot be divided.
    """
    users = list(value.consumers())
    if len(users) != 1:
        return
    [user] = users
    parts = list(user.outputs) if user.op_type == "Split" else [value]
    start = 0
    for part in parts:
        stop = start + width_of(part)
        if weight := _sole_reader(part):
            yield Span(weight, 0, 0, start, stop)
        start = stop


def _sole_reader(value: ir.Value) -> str | None:
    users = list(value.consumers())
    if len(users) != 1:
        return None
    return _linear_weight(users[0]) or _depthwise_behind(value)


def _depthwise_behind(value: ir.Value) -> str | None:
    """The kernel of the depthwise convolution that a value reaches, alone, through moves."""
    width = width_of(value)
    while len(users := list(value.consumers())) == 1:
        [user] = users
        if user.op_type == "Conv":
            return _depthwise_weight(user, width)
        if user.op_type not in MOVES:
            return None
        value = user.outputs[0]
    return None


def _makers(value: ir.Value) -> Iterator[Span]:
    """The weights that make the channels of a projection's input, part by part."""
    node = value.producer()
    parts = list(node.inputs) if node is not None and node.op_type == "Concat" else [value]
    start = 0
    for part in parts:
        assert part is not None
        stop = start + width_of(part)
        yield from _makers_of_part(part, start, stop)
        start = stop


def _makers_of_part(value: ir.Value, start: int, stop: int) -> Iterator[Span]:
    node = _origin(value)
    if node is None:
        return
    if node.op_type == "Conv" and _depthwise_weight(node, stop - start):
        constants = [constant for constant in node.inputs[1:] if constant is not None]
        if all(map(_is_own, constants)):
            yield from (Span(str(constant.name), 0, 0, start, stop) for constant in constants)
    elif node.op_type == "MatMul" and _linear_weight(node) is None and node.inputs[1] is not None:
        yield from _columns(node.inputs[1], start, stop)


def _columns(v: ir.Value, start: int, stop: int) -> Iterator[Span]:
    """The columns of the qkv weight, and the entries of its bias, that make v and nothing else."""
    pieces = _origin(v)
    if pieces is None or pieces.op_type != "Split":
        return
    outputs = list(pieces.outputs)
    piece = next(output for output in outputs if _reaches(output, v))
    first = sum(map(width_of, outputs[: piece.index()]))
    add = _sole_producer(pieces.inputs[0])
    if add is None or add.op_type != "Add" or width_of(piece) != stop - start:
        return
    product, bias = add.inputs
    linear = _sole_producer(product)
    if linear is None or bias is None or not _is_own(bias):
        return
    if weight := _linear_weight(linear):
        yield Span(weight, 1, first, start, stop)
        yield Span(str(bias.name), 0, first, start, stop)


def _origin(value: ir.Value | None) -> ir.Node | None:
    """The node that makes a value, back through moves that nothing else reads."""
    node = _sole_producer(value)
    while node is not None and node.op_type in MOVES:
        node = _sole_producer(node.inputs[0])
    return node


def _sole_producer(value: ir.Value | None) -> ir.Node | None:
    """The node that makes a value, where one operand alone reads it."""
    return None if value is None or len(value.uses()) != 1 else value.producer()


def _reaches(value: ir.Value, end: ir.Value) -> bool:
    while value is not end and (users := list(value.consumers())):
        if users[0].op_type not in MOVES:
            return False
        value = users[0].outputs[0]
    return value is end


def _linear_weight(node: ir.Node) -> str | None:
    """The constant [input channel, output channel] of a MatMul alone, or None."""
    if node.op_type != "MatMul" or node.inputs[1] is None:
        return None
    constant = node.inputs[1]
    return str(constant.name) if _is_own(constant) else None


def _depthwise_weight(node: ir.Node, channels: int) -> str | None:
    """The kernel of a convolution that works on each of so many channels alone, or None."""
    constant = node.inputs[1]
    group = node.attributes.get_int("group", 1)
    if group != channels or constant is None or not _is_own(constant):
        return None
    assert constant.shape is not None
    return str(constant.name) if constant.shape[:2] == (channels, 1) else None


def _is_own(value: ir.Value) -> bool:
    """Whether a value is a constant that no second operand reads, so that it may change."""
    return is_constant(value) and len(value.uses()) == 1


def _flattened(value: ir.Value) -> ir.Value:
    """A tensor as it is read, where a Reshape alone brings its tokens into one axis."""
    users = list(value.consumers())
    if len(users) != 1 or users[0].op_type != "Reshape":
        return value
    flat = users[0].outputs[0]
    return flat if width_of(flat) == width_of(value) else value


def width_of(value: ir.Value | None) -> int:
    """How many channels a tensor with its channels last has."""
    assert value is not None
    assert value.shape is not None
    return int(value.shape.numpy()[-1])
