"""Make one Transpose between two Reshapes of every chain of Reshapes and Transposes.

Each chain takes numbers from one order of axes to another. Its axes are cut into the factors that
its shapes cut them into; then it is one permutation of these. A builder that would run a part of
the chain in one kernel and the rest in the next has only one to run. Bit-exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from ...graphs.weights import dims, first_input, replace_node, reshape, sole_user, transpose
from ..graph_pass import GraphPass, Sites

MOVES = ("Reshape", "Transpose")


def merge_moves(graph: ir.Graph) -> Sites:
    sites = Sites()
    for last in [node for node in graph if node.op_type in MOVES]:
        chain = _chain(last)
        if sum(node.op_type == "Transpose" for node in chain) < 2:
            continue
        merged = merge(dims(chain[0].inputs[0]), chain)
        if merged is None:
            sites.skip(last, "its shapes have no factors in common")
            continue
        sites.rewrite(last)
        factors, perm = merged
        apart = reshape(graph, last, first_input(chain[0]), factors)
        moved = transpose(graph, last, apart, perm)
        replace_node(graph, last, reshape(graph, last, moved, dims(last.outputs[0])))
    return sites


def _chain(last: ir.Node) -> list[ir.Node]:
    """The moves that end in ``last``, which nothing else reads on the way; none if it goes on."""
    user = sole_user(last.outputs[0])
    if user is not None and user.op_type in MOVES:
        return []
    chain = [last]
    while (value := first_input(chain[0])).producer() is not None:
        node = value.producer()
        if node is None or node.op_type not in MOVES or sole_user(value) is None:
            break
        chain.insert(0, node)
    return chain


def merge(
    shape: Sequence[int], chain: Sequence[ir.Node]
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The factors of a shape and their permutation that a chain of moves is.

    None where an axis would have to be cut at what is no factor of it.
    """
    order = [_Factor(size) for size in shape]
    axes = [[factor] for factor in order]
    for node in chain:
        if node.op_type == "Transpose":
            axes = [axes[axis] for axis in node.attributes["perm"].as_ints()]
            continue
        regrouped = _regroup([f for axis in axes for f in axis], dims(node.outputs[0]), order)
        if regrouped is None:
            return None
        axes = regrouped
    return _shortest(order, [factor for axis in axes for factor in axis])


class _Factor:
    """A part of an axis, told from others of its size."""

    def __init__(self, size: int) -> None:
        self.size = size


def _regroup(
    waiting: list[_Factor], shape: Sequence[int], order: list[_Factor]
) -> list[list[_Factor]] | None:
    """The factors of each axis of a new shape; where one is cut in two, it is so in ``order``."""
    waiting = [factor for factor in waiting if factor.size > 1]
    axes = []
    for size in shape:
        axis: list[_Factor] = []
        while (left := size // math.prod(f.size for f in axis)) > 1:
            factor = waiting.pop(0)
            if factor.size > left:
                if factor.size % left:
                    return None
                inner = _Factor(factor.size // left)
                factor.size = left
                order.insert(order.index(factor) + 1, inner)
                waiting.insert(0, inner)
            elif left % factor.size:
                return None
            axis.append(factor)
        axes.append(axis)
    return axes


def _shortest(
    order: list[_Factor], moved: list[_Factor]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes and permutation, neighbours that stay neighbours taken as one."""
    order = [factor for factor in order if factor.size > 1]
    places = [order.index(factor) for factor in moved if factor.size > 1]
    runs: list[list[int]] = []
    for place in places:
        if runs and runs[-1][-1] + 1 == place:
            runs[-1].append(place)
        else:
            runs.append([place])
    inside = sorted(runs)
    sizes = tuple(math.prod(order[place].size for place in run) for run in inside)
    return sizes, tuple(inside.index(run) for run in runs)


MERGE_MOVES = GraphPass("merge_moves", merge_moves, tolerance=0)
