"""An attention as its nodes tell it: the one reading from which every pass over attention starts.

    softmax((scale q) k^T + bias) v        over heads: q, k and v are [B, H, S, d]

Between a linear and the matmuls, each of the three is moved to heads. q and k may have a norm per
head, LayerNormalization or the nodes of a module that is called a norm, and after it RoPE:

    rope(x) = x * cos + turn(x) * sin      where moves and signs alone make turn(x) of x
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from .blocks import LAYER_NORM
from .scopes import is_norm, module_of
from .weights import constant, first_input, is_constant, made_by, sole_user

SWAP_LAST = (0, 1, 3, 2)  # [B, H, S, d] to [B, H, d, S]
MOVES = {"Reshape", "Slice", "Split", "Squeeze", "Transpose"}
TURNS = {"Concat", "Neg", "Unsqueeze", *MOVES}

Nodes = tuple[ir.Node, ...]


@dataclass(frozen=True)
class Operand:
    """q, k or v on its way to the matmul that reads it; of several nodes the last comes first.

    Attributes:
        value: What the matmul reads.
        scale: The Mul by one number, or None.
        swapped: The Transpose of its last two axes, or None.
        rope: The nodes of its RoPE; none where it has none.
        normed: What is turned and scaled.
        norm: The nodes of its norm; none where it has none.
        moves: Those that bring it from a linear to heads.
    """

    value: ir.Value
    scale: ir.Node | None
    swapped: ir.Node | None
    rope: Nodes
    normed: ir.Value
    norm: Nodes
    moves: Nodes


@dataclass(frozen=True)
class Attention:
    """The nodes around a softmax.

    Attributes:
        bias: What is added to the scores, or None.
        mixed: The MatMul of the weights with v; a constant may multiply them before it (AMM).
    """

    bias: ir.Value | None
    mixed: ir.Node
    q: Operand
    k: Operand
    v: Operand

    @property
    def operands(self) -> tuple[Operand, Operand, Operand]:
        return self.q, self.k, self.v


def find_attention(softmax: ir.Node) -> Attention | str:
    """The attention around a softmax, or why there is none."""
    scores = softmax.inputs[0]
    biased = made_by(scores, "Add")
    product = made_by(biased.inputs[0] if biased is not None else scores, "MatMul")
    mixed = sole_user(softmax.outputs[0])
    if mixed is not None and mixed.op_type == "Mul" and is_constant(mixed.inputs[1]):
        mixed = sole_user(mixed.outputs[0])
    if product is None or mixed is None or mixed.op_type != "MatMul":
        return "no matmul makes its scores, or none uses them"
    bias = biased.inputs[1] if biased is not None else None
    q, k, v = map(_operand, (*product.inputs, mixed.inputs[1]))
    return Attention(bias, mixed, q, k, v)


def _operand(value: ir.Value | None) -> Operand:
    assert value is not None
    scale = made_by(value, "Mul")
    factor = constant(scale.inputs[1]) if scale is not None else None
    if factor is None or factor.size != 1:
        scale = None
    unscaled = value if scale is None else first_input(scale)
    swapped = made_by(unscaled, "Transpose", perm=SWAP_LAST)
    rope, normed = _rope(unscaled if swapped is None else first_input(swapped))
    norm, heads = _norm(normed)
    return Operand(value, scale, swapped, rope, normed, norm, _moves(heads))


def _rope(value: ir.Value) -> tuple[Nodes, ir.Value]:
    """The nodes of the RoPE that makes a value, and what it turns: itself without one."""
    add = made_by(value, "Add")
    products = [made_by(operand, "Mul") for operand in add.inputs] if add is not None else []
    nodes = tuple(node for node in (add, *products) if node is not None)
    factors = [_fed(product) for product in nodes[1:]]
    if [len(fed) for fed in factors] != [1, 1]:
        return (), value
    [left], [right] = factors
    for x, turned in ((left, right), (right, left)):
        turn = _turn(turned, x)
        if turn is not None:
            return (*nodes, *turn), x
    return (), value


def _turn(turned: ir.Value | None, x: ir.Value) -> Nodes | None:
    """The moves and signs that make a value of ``x`` alone, or None where others take part."""
    if turned is x:
        return ()
    node = turned.producer() if turned is not None else None
    if node is None or node.op_type not in TURNS:
        return None
    nodes: list[ir.Node] = [node]
    for operand in node.inputs if node.op_type == "Concat" else node.inputs[:1]:
        behind = _turn(operand, x)
        if behind is None:
            return None
        nodes += behind
    return tuple(nodes)


def _norm(value: ir.Value) -> tuple[Nodes, ir.Value]:
    """The nodes of the norm that makes a value, and what it reads: itself without one."""
    last = value.producer()
    if last is not None and last.op_type == LAYER_NORM:
        return (last,), first_input(last)
    if last is None or not is_norm(module_of(last)):
        return (), value
    nodes = _same_module(last)
    sources = {read for node in nodes for read in _fed(node) if read.producer() not in nodes}
    return (nodes, sources.pop()) if len(sources) == 1 else ((), value)


def _same_module(last: ir.Node) -> Nodes:
    """A node, and all behind it that stand in its module."""
    nodes, waiting = [], [last]
    while waiting:
        node = waiting.pop()
        if node not in nodes:
            nodes.append(node)
            makers = (read.producer() for read in _fed(node))
            waiting += [m for m in makers if m is not None and module_of(m) == module_of(last)]
    return tuple(nodes)


def _moves(value: ir.Value) -> Nodes:
    nodes = []
    node = value.producer()
    while node is not None and node.op_type in MOVES:
        nodes.append(node)
        node = first_input(node).producer()
    return tuple(nodes)


def _fed(node: ir.Node) -> list[ir.Value]:
    """What a node reads that is no constant."""
    return [value for value in node.inputs if value is not None and not is_constant(value)]
