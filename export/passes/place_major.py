"""Keep the tokens of all images in one axis, those at one place of their windows side by side.

    [B, W S, C]  ->  [S B W, C]        B images of W windows of S tokens

A fused attention of TensorRT reads the sequences of all heads at one stride. In this order it has
it without a move: head h of window w of image b begins ``((b W + w) H + h) d`` numbers behind the
first, and each next token ``B W H d`` behind. Linears, norms and residuals take rows in any order,
so between patch embedding and un-patchify only what looks at neighbours is moved: the bridge. And
a linear on rows takes its bias, and what follows for each number, into its own kernel.

Window order is made by `window_major`, before; a DiT's window is the whole grid. To the attention
all is one image of ``B W H`` heads. Nothing is computed otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ...graphs.attention import find_attention
from ...graphs.blocks import LAYER_NORM, trunk
from ...graphs.scopes import module_of, put_into
from ...graphs.weights import (
    add_shape,
    dims,
    first_input,
    insert_behind,
    is_constant,
    is_op,
    made_by,
    reshape,
    sole_user,
    transpose,
)
from ..graph_pass import GraphPass, Sites

SPLIT_HEADS = (0, 2, 1, 3)  # (N, S, H, d) to (N, H, S, d), and back
PLACES_FIRST = (2, 0, 1, 3)  # (B, W, S, C) to (S, B, W, C)
WINDOWS_FIRST = (1, 2, 0, 3)  # and back
UNARY = {"Cast", "Erf", "Gelu", "Identity", "Neg", "Relu", "Sigmoid", "Sqrt", "Tanh"}
BINARY = {"Add", "Div", "Mul", "Pow", "Sub"}
ACROSS = {"Concat", "Split"}  # of channels


@dataclass(frozen=True)
class Places:
    """How tokens lie in one axis.

    Attributes:
        batch: Images.
        windows: Of an image; 1 where attention sees all of it.
        inside: Tokens of a window.
    """

    batch: int
    windows: int
    inside: int

    @property
    def tokens(self) -> tuple[int, int]:
        """Images, and tokens of each: the first two axes of a traced trunk."""
        return self.batch, self.windows * self.inside

    @property
    def rows(self) -> int:
        return self.batch * self.windows * self.inside


@dataclass(frozen=True)
class Site:
    """An attention whose operands are cut from tokens, and joined to tokens again.

    Attributes:
        parts: The Reshapes of q, k and v from tokens to (N, S, H, d).
        scores: The MatMul that makes the scores.
        softmax: Of the scores.
        mixed: The MatMul with v.
        joined: The Reshape to tokens again.
    """

    parts: tuple[ir.Node, ...]
    scores: ir.Node
    softmax: ir.Node
    mixed: ir.Node
    joined: ir.Node

    @property
    def places(self) -> Places:
        sequences, inside = dims(self.parts[0].outputs[0])[:2]
        batch = dims(self.parts[0].inputs[0])[0]
        return Places(batch, sequences // batch, inside)


def place_major(graph: ir.Graph) -> Sites:
    sites = Sites()
    found = []
    for softmax in [node for node in graph if node.op_type == "Softmax"]:
        site = find_site(softmax)
        if isinstance(site, str):
            sites.skip(softmax, site)
        else:
            found.append(site)
    if not found:
        return sites
    rows = _Rows(graph, max((site.places for site in found), key=lambda places: places.windows))
    for site in found:
        if site.places == rows.places:
            sites.rewrite(site.softmax)
            rows.take_attention(site)
        else:
            sites.skip(site.softmax, "it sees a whole grid whose other attentions see windows")
    for node in trunk(graph):
        rows.take(node)
    return sites


def find_site(softmax: ir.Node) -> Site | str:
    """The attention around a softmax, or why it cannot read its tokens in place."""
    found = find_attention(softmax)
    if isinstance(found, str):
        return found
    if found.bias is not None:
        return "the bias of its scores is for each head"
    if sole_user(softmax.outputs[0]) is not found.mixed:
        return "its softmax is modulated"
    turned = [operand.value.producer() for operand in found.operands]
    parts = [made_by(node.inputs[0], "Reshape") if node else None for node in turned]
    if any(part is None or len(dims(part.inputs[0])) != 3 for part in parts):
        return "q, k or v is normalised or turned, or not cut by fuse_attention"
    after = sole_user(found.mixed.outputs[0])
    joined = sole_user(after.outputs[0]) if after is not None else None
    if after is None or joined is None or not is_op(after, "Transpose", perm=SPLIT_HEADS):
        return "its heads are not put side by side again"
    if dims(joined.outputs[0])[:2] != dims(parts[0].inputs[0])[:2]:  # type: ignore[union-attr]
        return "its heads are not put side by side again"
    scores = first_input(softmax).producer()
    assert scores is not None
    return Site(tuple(part for part in parts if part), scores, softmax, found.mixed, joined)


class _Rows:
    """A trunk whose tokens become rows, node by node in the order in which they run.

    What it does not know sees tokens as before.
    """

    def __init__(self, graph: ir.Graph, places: Places) -> None:
        self.places = places
        self._graph = graph
        self._rows: dict[ir.Value, ir.Value] = {}  # of each value that was tokens
        self._tokens: dict[ir.Value, ir.Value] = {}  # of rows, where something wants them
        self._apart: dict[ir.Value, ir.Value] = {}  # the same rows as (S, B, W, C)
        self._ends: dict[ir.Node, Site] = {}
        self._starts: set[ir.Node] = set()

    def take_attention(self, site: Site) -> None:
        self._starts.update(site.parts)
        self._ends[site.joined] = site

    def take(self, node: ir.Node) -> None:
        """Let a node work on rows, or give it the tokens that it knows."""
        if node in self._starts:
            self._cut(node)
        elif node in self._ends:
            self._join(self._ends[node])
        elif self._is_for_rows(node):
            self._work_on_rows(node)
        else:
            for index, value in enumerate(node.inputs):
                if value in self._rows:
                    node.replace_input_with(index, self._tokens_of(node, value))

    def _is_for_rows(self, node: ir.Node) -> bool:
        read = [value for value in node.inputs if value is not None]
        if not any(map(self._is_tokens, read)) or any(o.is_graph_output() for o in node.outputs):
            return False
        first, *others = read
        if node.op_type in UNARY:
            return True
        if node.op_type in BINARY:
            return all(self._is_tokens(value) or self._is_told(value) for value in read)
        if node.op_type == LAYER_NORM:
            return node.attributes["axis"].as_int() in {2, -1} and all(map(is_constant, others))
        if node.op_type in ACROSS:
            tokens = read if node.op_type == "Concat" else read[:1]
            return node.attributes["axis"].as_int() in {2, -1} and all(map(self._is_tokens, tokens))
        return node.op_type == "MatMul" and is_constant(others[0]) and self._is_tokens(first)

    def _is_tokens(self, value: ir.Value) -> bool:
        if value in self._rows:
            return True
        shape = () if value.shape is None or is_constant(value) else dims(value)
        return len(shape) == 3 and shape[:2] == self.places.tokens

    def _is_told(self, value: ir.Value) -> bool:
        """Whether a value is alike for all tokens of an image: a modulation, or a weight."""
        return len(dims(value)) < 2 or (len(dims(value)) == 3 and dims(value)[1] == 1)

    def _work_on_rows(self, node: ir.Node) -> None:
        read = [value for value in node.inputs if value is not None]
        apart = node.op_type in BINARY and any(
            not self._is_tokens(value) and len(dims(value)) == 3 for value in read
        )
        for index, value in enumerate(node.inputs):
            if value is not None and self._is_tokens(value):
                rows = self._rows_of(node, value)
                node.replace_input_with(index, self._apart_of(node, rows) if apart else rows)
        if node.op_type in ACROSS or node.op_type == LAYER_NORM:
            node.attributes["axis"] = ir.AttrInt64("axis", -1)
        for output in node.outputs:
            width = dims(output)[-1]
            output.shape = ir.Shape((*self._front, width) if apart else (self.places.rows, width))
            self._rows[output] = self._joined_behind(output) if apart else output

    def _joined_behind(self, apart: ir.Value) -> ir.Value:
        """Rows again, of (S, B, W, C)."""
        shape = (self.places.rows, dims(apart)[-1])
        node = ir.node("Reshape", [apart, add_shape(self._graph, shape)])
        [rows] = node.outputs
        rows.shape, rows.type = ir.Shape(shape), apart.type
        insert_behind(self._graph, apart, [node])
        self._apart[rows] = apart
        return rows

    def _rows_of(self, before: ir.Node, value: ir.Value) -> ir.Value:
        if value not in self._rows:
            batch, _, width = dims(value)
            places = self.places
            shape = (batch, places.windows, places.inside, width)
            cut = reshape(self._graph, before, value, shape)
            apart = transpose(self._graph, before, cut, PLACES_FIRST)
            rows = reshape(self._graph, before, apart, (places.rows, width))
            self._rows[value], self._apart[rows] = rows, apart
            maker = value.producer() or before  # who makes tokens hands them on as rows
            for moved in (cut, apart, rows):
                put_into(moved.producer(), module_of(maker))  # type: ignore[arg-type]
        return self._rows[value]

    def _apart_of(self, before: ir.Node, rows: ir.Value) -> ir.Value:
        """(S, B, W, C) of rows."""
        if rows not in self._apart:
            shape = (*self._front, dims(rows)[-1])
            self._apart[rows] = reshape(self._graph, before, rows, shape)
        return self._apart[rows]

    def _tokens_of(self, before: ir.Node, value: ir.Value) -> ir.Value:
        rows = self._rows[value]
        if rows not in self._tokens:
            apart = self._apart_of(before, rows)
            cut = transpose(self._graph, before, apart, WINDOWS_FIRST)
            shape = (*self.places.tokens, dims(rows)[-1])
            self._tokens[rows] = reshape(self._graph, before, cut, shape)
        return self._tokens[rows]

    @property
    def _front(self) -> tuple[int, int, int]:
        return self.places.inside, self.places.batch, self.places.windows

    def _cut(self, part: ir.Node) -> None:
        """To the attention, all sequences are heads of one image."""
        rows = self._rows_of(part, first_input(part))
        sequences, inside, heads, dim = dims(part.outputs[0])
        self._reshape_to(part, rows, (inside, sequences * heads, dim))
        for turned in list(part.outputs[0].consumers()):
            channels_first = turned.attributes["perm"].as_ints()[-1] == 1  # of k
            perm = (1, 2, 0) if channels_first else (1, 0, 2)
            moved = transpose(self._graph, turned, part.outputs[0], perm)
            moved = reshape(self._graph, turned, moved, (1, *dims(moved)))
            turned.outputs[0].replace_all_uses_with(moved)

    def _join(self, site: Site) -> None:
        inside, heads, dim = dims(site.parts[0].outputs[0])
        for node in (site.scores, site.softmax):
            node.outputs[0].shape = ir.Shape((1, heads, inside, inside))
        mixed = site.mixed.outputs[0]
        mixed.shape = ir.Shape((1, heads, inside, dim))
        after = first_input(site.joined).producer()
        assert after is not None
        flat = reshape(self._graph, after, mixed, (heads, inside, dim))
        moved = transpose(self._graph, after, flat, (1, 0, 2))
        width = dims(site.joined.outputs[0])[-1]
        self._reshape_to(site.joined, moved, (self.places.rows, width))
        self._rows[site.joined.outputs[0]] = site.joined.outputs[0]

    def _reshape_to(self, node: ir.Node, value: ir.Value, shape: tuple[int, ...]) -> None:
        node.replace_input_with(0, value)
        node.replace_input_with(1, add_shape(self._graph, shape))
        node.outputs[0].shape = ir.Shape(shape)


PLACE_MAJOR = GraphPass("place_major", place_major, tolerance=1e-5)
