"""How large the values in a graph get, and which blocks a narrow type cannot hold.

Measured on the calls that are given: latents of real trajectories. Another latent may reach
further, so a value may fill half of the type's range and no more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ...graphs.blocks import NameBlocks, name_blocks
from ...graphs.graph_file import run_calls
from ...graphs.weights import constant, insert_behind
from ..graph_pass import Feeds

MARGIN = 2.0
FLOAT = ir.DataType.FLOAT


def largest_magnitudes(model: ir.Model, calls: Sequence[Feeds]) -> dict[str, float]:
    """The largest absolute value of each float value that a node makes, over all calls.

    The maxima are taken inside the graph, so that its values need not be held all at once.
    """
    probe = model.clone()
    names = [_probe(probe.graph, value) for value in _float_values(probe.graph)]
    found: dict[str, float] = defaultdict(float)
    for answers in run_calls(probe, calls):
        for name, maximum in names:
            found[name] = float(np.maximum(found[name], answers[maximum]))  # NaN wins
    return dict(found)


def overflowing_blocks(
    graph: ir.Graph,
    kept: Collection[ir.Node],
    magnitudes: Mapping[str, float],
    largest: float,
    name_blocks: NameBlocks = name_blocks,
) -> dict[str, str]:
    """The blocks that make or take a value beyond half of ``largest``, each with the value.

    Values that the nodes in fp32 keep among themselves stay in fp32, so they may be of any size.
    """
    blocks = name_blocks(graph)
    found: dict[str, str] = {}
    for value in _float_values(graph):
        magnitude = magnitudes[str(value.name)]
        if magnitude <= largest / MARGIN:
            continue
        for node in (value.producer(), *value.consumers()):
            if node is not None and node in blocks and node not in kept:
                found.setdefault(blocks[node], f"{value.name} reaches {magnitude:.1e}")
    return found


def overflowing_weights(graph: ir.Graph, largest: float) -> dict[ir.Node, str]:
    """The nodes with a constant beyond ``largest``, which would become infinite."""
    found = {}
    for value in graph.initializers.values():
        array = constant(value) if value.dtype == FLOAT else None
        if array is not None and np.abs(array).max(initial=0.0) > largest:
            reason = f"{value.name} reaches {np.abs(array).max():.1e}"
            found.update(dict.fromkeys(value.consumers(), reason))
    return found


def _float_values(graph: ir.Graph) -> Iterator[ir.Value]:
    return (value for node in list(graph) for value in node.outputs if value.dtype == FLOAT)


def _probe(graph: ir.Graph, value: ir.Value) -> tuple[str, str]:
    """Give the graph one more output, the largest magnitude of a value; the names of both."""
    size = ir.node("Abs", [value])
    largest = ir.node("ReduceMax", size.outputs, attributes={"keepdims": 0})
    [maximum] = largest.outputs
    size.outputs[0].type, size.outputs[0].shape = ir.TensorType(FLOAT), value.shape
    maximum.type, maximum.shape = ir.TensorType(FLOAT), ir.Shape(())
    maximum.name = f"{value.name}_largest"
    insert_behind(graph, value, [size, largest])
    graph.outputs.append(maximum)
    return str(value.name), maximum.name
