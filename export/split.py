"""One graph becomes two: what depends on (timestep, label) alone leaves the loop.

The embedders and every adaLN linear, a third of a DiT's weights, never see the latent. They
become the conditioner, which the runtime asks for the modulations of all steps before the loop:

    modulation[:, 6 k + j] = chunk j of block k, and shift and scale of the final layer at the end

Where they are not of one width, as in a U of stages, they stand one behind the other in
``modulation[:, 0]``.

All of them come from one vector, ``silu(c)``, so their linears become one wide one. ``1 + scale``
is computed there too: the 1 goes into the linear's bias. Exact but for the rounding of that sum.
The denoiser takes ``modulation`` as an input instead of timestep and label.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ..graphs.interface import LATENT, MODULATION
from ..graphs.scopes import complete_modules
from ..graphs.weights import (
    Weight,
    add_constant,
    constant,
    dims,
    insert,
    is_op,
    made_by,
    replace_node,
    reshape,
    sole_user,
)

CONDITIONER_ROWS = 32  # of one conditioner call: the rows of many steps, made before the loop


@dataclass(frozen=True)
class Chunk:
    """One vector of a block's modulation, as the trunk reads it.

    Attributes:
        value: float32 [batch, 1, channel].
        weight: The rows of the linear that make it, [channel, condition].
        bias: [channel], with the 1 of ``1 + scale``.
    """

    value: ir.Value
    weight: Weight
    bias: Weight


class NoSplit(ValueError):
    """The graph's conditioning is not one vector through one linear for each block."""


def split(model: ir.Model) -> tuple[ir.Model, ir.Model]:
    """The conditioner and the denoiser of a traced graph, which is left as it is.

    Raises:
        NoSplit: The modulations do not come from linears of one vector.
    """
    denoiser = model.clone()
    chunks, source = _find_chunks(denoiser.graph)
    _take_modulation(denoiser, chunks)
    conditioner = model.clone()
    _keep_conditioning(conditioner, chunks, str(source.name))
    return conditioner, denoiser


def _find_chunks(graph: ir.Graph) -> tuple[list[Chunk], ir.Value]:
    """Every modulation in the order in which the trunk was traced, and the vector behind them."""
    chunks, sources = [], set()
    for pieces in [node for node in graph if is_op(node, "Split", axis=1)]:
        linear = made_by(pieces.inputs[0], "Gemm", transB=1)
        if linear is None:
            continue
        vector, *parameters = linear.inputs
        arrays = [array for value in parameters if (array := constant(value)) is not None]
        if vector is None or len(arrays) != 2:
            raise NoSplit(f"the linear behind {pieces.outputs[0].name} has no constant weights")
        sources.add(vector)
        ends = np.cumsum([dims(piece)[1] for piece in pieces.outputs])[:-1]
        weights, biases = (np.split(array, ends) for array in arrays)
        chunks += list(map(_chunk, pieces.outputs, weights, biases))
    if len(sources) != 1:
        raise NoSplit(f"the modulations come from {len(sources)} vectors, not from one")
    return chunks, sources.pop()


def _chunk(piece: ir.Value, weight: Weight, bias: Weight) -> Chunk:
    """A piece of a linear, unsqueezed to [batch, 1, channel] and with the 1 of ``1 + scale``."""
    unsqueezed = sole_user(piece)
    if unsqueezed is None or unsqueezed.op_type != "Unsqueeze":
        raise NoSplit(f"{piece.name} feeds something that is no modulation")
    value = unsqueezed.outputs[0]
    plus_one = sole_user(value)
    if plus_one is not None and plus_one.op_type == "Add":
        one = constant(plus_one.inputs[1])
        if one is not None and one.size == 1 and one.item() == 1:
            return Chunk(
                plus_one.outputs[0], weight, (bias.astype(np.float64) + 1).astype(bias.dtype)
            )
    return Chunk(value, weight, bias)


def _take_modulation(model: ir.Model, chunks: list[Chunk]) -> None:
    """Let the trunk read its modulations from one input [batch, chunk, channel]."""
    graph = model.graph
    batch = dims(chunks[0].value)[0]
    modulation = ir.Value(
        name=MODULATION,
        shape=ir.Shape((batch, *_layout(chunks))),
        type=chunks[0].value.type,
    )
    pieces = _cut(graph, modulation, chunks)
    graph.insert_before(graph[0], pieces)
    for chunk, piece in zip(chunks, pieces.outputs, strict=True):
        piece.name = f"{MODULATION}_{piece.index()}"
        piece.shape, piece.type = chunk.value.shape, modulation.type
        node = chunk.value.producer()
        assert node is not None
        replace_node(graph, node, piece)
    RemoveUnusedNodesPass()(model)
    kept = [value for value in graph.inputs if value.name == LATENT]
    if unused := [v.name for v in graph.inputs if v.name != LATENT and v.uses()]:
        raise NoSplit(f"the trunk reads {', '.join(map(str, unused))} beside the modulations")
    graph.inputs[:] = [*kept, modulation]
    complete_modules(graph)


def _layout(chunks: list[Chunk]) -> tuple[int, int]:
    """Chunks and channels of a row of the modulation."""
    widths = [len(chunk.bias) for chunk in chunks]
    return (len(widths), widths[0]) if len(set(widths)) == 1 else (1, sum(widths))


def _cut(graph: ir.Graph, modulation: ir.Value, chunks: list[Chunk]) -> ir.Node:
    """The Split of the modulation into its chunks."""
    count = len(chunks)
    if _layout(chunks)[0] == count:
        attributes = {"axis": 1, "num_outputs": count}
        return ir.node("Split", [modulation], attributes=attributes, num_outputs=count)
    widths = np.array([len(chunk.bias) for chunk in chunks], np.int64)
    sizes = add_constant(graph, f"{MODULATION}_widths", widths)
    return ir.node("Split", [modulation, sizes], attributes={"axis": 2}, num_outputs=count)


def _keep_conditioning(model: ir.Model, chunks: list[Chunk], source: str) -> None:
    """Keep the embedders, and make all modulations with one linear."""
    graph = model.graph
    values = [*graph.inputs, *(output for node in graph for output in node.outputs)]
    vector = next(value for value in values if value.name == source)
    layout = _layout(chunks)
    _set_rows(graph, CONDITIONER_ROWS)
    weight = np.concatenate([chunk.weight for chunk in chunks])
    bias = np.concatenate([chunk.bias for chunk in chunks])
    last = graph[-1]
    wide = insert(
        graph,
        last,
        "Gemm",
        [
            vector,
            add_constant(graph, "adaLN.weight", weight),
            add_constant(graph, "adaLN.bias", bias),
        ],
        (CONDITIONER_ROWS, len(bias)),
        transB=1,
    )
    output = reshape(graph, last, wide, (CONDITIONER_ROWS, *layout))
    output.name = MODULATION
    graph.outputs[:] = [output]
    RemoveUnusedNodesPass()(model)
    graph.inputs[:] = [value for value in graph.inputs if value.name != LATENT]


def _set_rows(graph: ir.Graph, rows: int) -> None:
    """Give the embedders another batch: none of their operators holds it in a constant."""
    for value in [*graph.inputs, *(output for node in graph for output in node.outputs)]:
        if value.shape is not None:
            value.shape = ir.Shape((rows, *dims(value)[1:]))
