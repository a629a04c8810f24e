"""Keep the tokens in window order through the whole trunk.

Traced, every block cuts the row-major grid into windows before its attention and puts it together
again after it. LayerNorm, modulation, MLP and the residual do not care about the order of the
tokens, so the tokens are put into window order once, in the patch embedding (and in the fixed
positions), and back once, in un-patchify: both are layout changes that stood there anyway. With
``R = r w`` rows and ``C = c w`` columns, token ``(i w + a, j w + b)`` moves to place
``((i, j), (a, b))``.

Then a window is a contiguous run of tokens, and attention needs a reshape where it had a
partition. Only the bridge convolution regathers the grid. Attention over the whole grid does not
care either, but for its position bias, whose rows and columns are permuted. Bit-exact but for the
order in which sums over the whole grid are taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...graphs.weights import (
    Weight,
    add_constant,
    constant,
    dims,
    is_op,
    made_by,
    replace_node,
    reshape,
    sole_user,
    transpose,
)
from ..graph_pass import GraphPass, Sites

PARTITION = (5, 0, 1, 3, 6, 2, 4, 7)  # (N, r, w, c, w, 3, H, d) to (3, N, r, c, H, w, w, d)
REVERSE = (0, 1, 4, 2, 5, 3, 6)  # (N, r, c, H, w, w, d) to (N, r, w, c, w, H, d)
UNPATCHIFY = (0, 5, 1, 3, 2, 4)  # (N, R, C, P, P, channels) to (N, channels, R, P, C, P)
TOKENS_LAST = (0, 2, 1)


@dataclass(frozen=True)
class Layout:
    """How a grid is cut: ``rows`` x ``columns`` windows of ``down`` x ``right`` tokens."""

    rows: int
    down: int
    columns: int
    right: int

    @property
    def grid(self) -> tuple[int, int]:
        return self.rows * self.down, self.columns * self.right

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def cut(self) -> tuple[int, int, int, int]:
        return self.rows, self.down, self.columns, self.right

    @property
    def windows(self) -> tuple[int, int, int, int]:
        return self.rows, self.columns, self.down, self.right

    @property
    def is_whole_grid(self) -> bool:
        return self.rows == self.columns == 1

    def order(self) -> Weight:
        """int64 [tokens]: the row-major place of each token in window order."""
        places = np.arange(self.tokens).reshape(self.cut)
        return places.transpose(0, 2, 1, 3).reshape(-1)


def window_major(graph: ir.Graph) -> Sites:
    sites = Sites()
    partitions = [node for node in graph if _is(node, PARTITION)]
    windowed = {layout for layout in map(layout_of, partitions) if not layout.is_whole_grid}
    if len(windowed) > 1:
        return _skip_all(sites, partitions, "its windows are not of one size in all blocks")
    for layout in windowed:
        edges = Edges.find(graph, layout)
        if isinstance(edges, str):
            return _skip_all(sites, partitions, edges)
        tables = find_tables(graph, layout)
        if isinstance(tables, str):
            return _skip_all(sites, partitions, tables)
        _reorder_trunk(graph, layout, edges, tables, sites)
    for node in partitions:
        sites.rewrite(node)
        _rewrite_partition(graph, node)
    for node in [node for node in graph if _is(node, REVERSE)]:
        sites.rewrite(node)
        _rewrite_reverse(graph, node)
    return sites


def _reorder_trunk(
    graph: ir.Graph, layout: Layout, edges: Edges, tables: set[Table], sites: Sites
) -> None:
    """Put the tokens into window order where they begin, and back where they end."""
    for convolution in [node for node in graph if node.op_type in {"Conv", "MaxPool"}]:
        _regather(graph, convolution, layout, sites)
    for table in tables:
        table.permute(graph, layout)
    edges.rewrite(graph, layout, sites)


def _skip_all(sites: Sites, nodes: list[ir.Node], why: str) -> Sites:
    for node in nodes:
        sites.skip(node, why)
    return sites


def layout_of(partition: ir.Node) -> Layout:
    """How a partition's Transpose cuts the grid, from the shape that it is given."""
    return Layout(*dims(partition.inputs[0])[1:5])


@dataclass(frozen=True)
class Edges:
    """Where tokens begin and end: the patch embedding, its positions, and un-patchify."""

    embedding: ir.Node
    positions: ir.Node
    unpatchify: ir.Node

    @staticmethod
    def find(graph: ir.Graph, layout: Layout) -> Edges | str:
        """The edges of the trunk, or the reason why they cannot be moved."""
        for node in graph:
            flatten = made_by(node.inputs[0], "Reshape") if _is(node, TOKENS_LAST) else None
            if flatten is None or made_by(flatten.inputs[0], "Conv") is None:
                continue
            positions = sole_user(node.outputs[0])
            if positions is None or positions.op_type != "Add":
                continue
            if constant(positions.inputs[1]) is None:
                continue
            if dims(positions.inputs[1])[1:2] != (layout.tokens,):
                continue
            ends = [end for end in graph if _is(end, UNPATCHIFY)]
            if len(ends) != 1 or dims(ends[0].inputs[0])[1:3] != layout.grid:
                return "the graph does not end in one un-patchify of the same grid"
            return Edges(node, positions, ends[0])
        return "no patch embedding with fixed positions begins the graph"

    def rewrite(self, graph: ir.Graph, layout: Layout, sites: Sites) -> None:
        sites.rewrite(self.embedding)
        flatten = made_by(self.embedding.inputs[0], "Reshape")
        assert flatten is not None
        grid = flatten.inputs[0]
        assert grid is not None
        batch, width = dims(grid)[:2]
        cut = reshape(graph, self.embedding, grid, (batch, width, *layout.cut))
        windows = transpose(graph, self.embedding, cut, (0, 2, 4, 3, 5, 1))
        tokens = reshape(graph, self.embedding, windows, (batch, layout.tokens, width))
        replace_node(graph, self.embedding, tokens)
        positions = constant(self.positions.inputs[1])
        assert positions is not None
        moved = add_constant(graph, "pos_embed_windows", positions[:, layout.order()])
        self.positions.replace_input_with(1, moved)

        sites.rewrite(self.unpatchify)
        patches = made_by(self.unpatchify.inputs[0], "Reshape")
        assert patches is not None
        source = patches.inputs[0]
        assert source is not None
        batch, _, _, *patch = dims(self.unpatchify.inputs[0])
        tokens = reshape(graph, self.unpatchify, source, (batch, *layout.windows, *patch))
        image = transpose(graph, self.unpatchify, tokens, (0, 7, 1, 3, 5, 2, 4, 6))
        side, channels = patch[0], patch[2]
        rows, columns = layout.grid
        shape = (batch, channels, rows, side, columns, side)
        replace_node(graph, self.unpatchify, reshape(graph, self.unpatchify, image, shape))


@dataclass(frozen=True)
class Table:
    """A constant that knows the tokens of attention over the whole grid by their places.

    The position bias itself, or, where that is too large for the exporter to compute, the index
    by which it is looked up.

    Attributes:
        node: What reads it.
        operand: As which of its inputs.
        axis: The first of two axes that go over the tokens: the queries', then the keys'.
    """

    node: ir.Node
    operand: int
    axis: int

    @staticmethod
    def find(add: ir.Node) -> Table | None:
        """The table behind the bias of some scores, or None where no constant makes it."""
        bias = add.inputs[1]
        if constant(bias) is not None:
            return Table(add, 1, len(dims(bias)) - 2)
        turned = made_by(bias, "Transpose", perm=(2, 0, 1))
        lookup = made_by(turned.inputs[0], "GatherND") if turned is not None else None
        if lookup is None or constant(lookup.inputs[0]) is None:
            return None
        unsqueeze = made_by(lookup.inputs[1], "Unsqueeze")
        reader, operand = (lookup, 1) if unsqueeze is None else (unsqueeze, 0)
        return Table(reader, operand, 0) if constant(reader.inputs[operand]) is not None else None

    def permute(self, graph: ir.Graph, layout: Layout) -> None:
        array, order = constant(self.node.inputs[self.operand]), layout.order()
        assert array is not None
        moved = array.take(order, self.axis).take(order, self.axis + 1)
        value = add_constant(graph, "position_bias_windows", moved)
        self.node.replace_input_with(self.operand, value)


def find_tables(graph: ir.Graph, layout: Layout) -> set[Table] | str:
    """The position biases of attention over the whole grid, or why they cannot be permuted."""
    tables = set()
    for node in graph:
        if node.op_type != "Add" or made_by(node.inputs[0], "MatMul") is None:
            continue
        if dims(node.inputs[1])[-2:] == (layout.tokens, layout.tokens):
            table = Table.find(node)
            if table is None:
                return "a position bias over the whole grid is no constant"
            tables.add(table)
    return tables


def _is(node: ir.Node, perm: tuple[int, ...]) -> bool:
    return is_op(node, "Transpose", perm=perm)


def _rewrite_partition(graph: ir.Graph, node: ir.Node) -> None:
    """(N, T, 3A) to (3, N * windows, H, w * w, d), as DiT does with the grid as its window."""
    cut = made_by(node.inputs[0], "Reshape")
    joined = sole_user(node.outputs[0])
    assert cut is not None
    assert joined is not None
    source = cut.inputs[0]
    assert source is not None
    three, windows, heads, tokens, dim = dims(joined.outputs[0])
    flat = reshape(graph, node, source, (windows, tokens, three, heads, dim))
    replace_node(graph, joined, transpose(graph, node, flat, (2, 0, 3, 1, 4)))


def _rewrite_reverse(graph: ir.Graph, node: ir.Node) -> None:
    """(N * windows, H, w * w, d) to (N, T, A)."""
    cut = made_by(node.inputs[0], "Reshape")
    joined = sole_user(node.outputs[0])
    assert cut is not None
    assert joined is not None
    source = cut.inputs[0]
    assert source is not None
    merged = transpose(graph, joined, source, (0, 2, 1, 3))
    replace_node(graph, joined, reshape(graph, joined, merged, dims(joined.outputs[0])))


def _regather(graph: ir.Graph, node: ir.Node, layout: Layout, sites: Sites) -> None:
    """Let a bridge that takes tokens (N, T, C) to a grid and back do so from window order."""
    grid = made_by(node.inputs[0], "Reshape")
    tokens = made_by(grid.inputs[0], "Transpose", perm=TOKENS_LAST) if grid is not None else None
    if grid is None or tokens is None:
        return
    sites.rewrite(node)
    source = tokens.inputs[0]
    assert source is not None
    batch, channels, rows, columns = dims(grid.outputs[0])
    windows = reshape(graph, grid, source, (batch, *layout.windows, channels))
    image = transpose(graph, grid, windows, (0, 5, 1, 3, 2, 4))
    replace_node(graph, grid, reshape(graph, grid, image, (batch, channels, rows, columns)))
    _scatter(graph, _end_of_bridge(node), layout)


def _end_of_bridge(node: ir.Node) -> ir.Node:
    """The Transpose back to tokens (N, T, C) that a bridge ends in."""
    value = node.outputs[0]
    while not _is(user := next(iter(value.consumers())), TOKENS_LAST):
        value = user.outputs[0]
    return user


def _scatter(graph: ir.Graph, tokens: ir.Node, layout: Layout) -> None:
    flatten = made_by(tokens.inputs[0], "Reshape")
    assert flatten is not None
    source = flatten.inputs[0]
    assert source is not None
    batch, channels, _, _ = dims(source)
    cut = reshape(graph, tokens, source, (batch, channels, *layout.cut))
    windows = transpose(graph, tokens, cut, (0, 2, 4, 3, 5, 1))
    flat = reshape(graph, tokens, windows, (batch, layout.tokens, channels))
    replace_node(graph, tokens, flat)


WINDOW_MAJOR = GraphPass("window_major", window_major, tolerance=1e-5)
