"""The denoiser in fp16 or bf16: the precision is written in the graph.

Inputs and outputs stay float32, so one session can stand in for another; the casts are inside.
`kept_fp32.RULES` says which nodes stay in fp32 and why. A block in which fp16 would overflow stays
in fp32 too, and the report names it. The conditioner is not touched: it runs before the loop.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ... import one_of
from ...graphs.blocks import NameBlocks, name_blocks
from ...graphs.graph_file import run_calls
from ...graphs.retype import retype
from ...graphs.rounding import rounded
from ...runtime.bundle.manifest import PassReport
from ...runtime.bundle.precision import FLOATING, FP32, PRECISIONS, Precision
from ...runtime.distance import relative_l2
from ...runtime.session import Array
from ..graph_pass import Feeds, report_change
from .kept_fp32 import RULES, Rule, nodes_in_fp32
from .overflow import largest_magnitudes, overflowing_blocks, overflowing_weights

# What is written below fp32.
LOW = {name: PRECISIONS[name] for name in FLOATING if name != FP32.name}


@dataclass(frozen=True)
class Lowered:
    """A denoiser in low precision.

    Attributes:
        model: The graph.
        report: Which nodes were lowered, and which stayed in fp32 and why.
        predictions: What its twin of `rounding` answers to each call of the check.
    """

    model: ir.Model
    report: PassReport
    predictions: tuple[Array, ...]


def choose_precisions(names: Sequence[str]) -> list[str]:
    """The precisions to write, fp32 among them, each once and in the order of the table.

    Raises:
        OptionError: There is no such precision; the message says which there are.
    """
    for name in names:
        if name not in FLOATING:
            raise one_of("precision", name, PRECISIONS)
    return [name for name in FLOATING if name == FP32.name or name in names]


def lower(
    model: ir.Model,
    precision: Precision,
    calls: Sequence[Feeds],
    *,
    rules: Sequence[Rule] = RULES,
    name_blocks: NameBlocks = name_blocks,
) -> Lowered:
    """Write a graph in a lower precision.

    Args:
        model: The fp32 graph after the passes and the split; it is left as it is.
        precision: Of the new graph.
        calls: Inputs on which overflow is looked for and the new graph is held against the old.
        rules: What stays in fp32; the denoiser's by default.
        name_blocks: What stays in fp32 together, where a value of it would overflow.
    """
    low, dtype = model.clone(), ir.DataType[precision.dtype]
    graph = low.graph
    kept = nodes_in_fp32(graph, precision.name, rules)
    if math.isfinite(precision.largest):
        for node, why in _beyond(graph, model, calls, precision, kept, name_blocks):
            kept.setdefault(node, why)
    nodes = {node for node in graph if node not in kept}
    rewritten = [str(node.outputs[0].name) for node in graph if node in nodes]
    skipped = {str(node.outputs[0].name): why for node, why in kept.items()}
    retype(graph, nodes, dtype)

    [expected, found] = (
        [next(iter(answer.values())) for answer in run_calls(made, calls)]
        for made in (model, rounded(low, dtype))
    )
    change = max(map(relative_l2, expected, found))
    report = report_change(precision.name, model, low, rewritten, skipped, change)
    return Lowered(low, report, tuple(found))


def _beyond(
    graph: ir.Graph,
    model: ir.Model,
    calls: Sequence[Feeds],
    precision: Precision,
    kept: Collection[ir.Node],
    name_blocks: NameBlocks,
) -> Iterator[tuple[ir.Node, str]]:
    """The nodes of the new graph whose values or constants are too large, and why."""
    large = overflowing_weights(graph, precision.largest)
    for node, why in large.items():
        yield node, f"{why}, beyond {precision.name}'s {precision.largest:.0f}"
    magnitudes = largest_magnitudes(model, calls)
    kept = {*kept, *large}
    found = overflowing_blocks(graph, kept, magnitudes, precision.largest, name_blocks)
    for node, block in name_blocks(graph).items():
        if block in found:
            why = f"{block} would overflow: {found[block]}"
            yield node, f"{why}, beyond half of {precision.name}'s range"
