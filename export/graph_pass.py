"""What a graph pass is, and how passes are applied.

A pass edits the graph that it is given and says what it did. `apply` hands it a copy, so to
everyone else a pass is a pure function from a model to a model and a report. What is true of all
passes is checked here, once: the graph kept its inputs and outputs, and answers as before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from .. import BundleError
from ..graphs.blocks import moves_per_block
from ..graphs.graph_file import run_graph
from ..graphs.weights import weight_bytes
from ..runtime.bundle.manifest import PassReport
from ..runtime.distance import relative_l2
from ..runtime.session import Array
from ..runtime.stage import OnStage, unheard

Feeds = Mapping[str, Array]


@dataclass
class Sites:
    """The places that a pass looked at, each by the name of the node's first output.

    Node names are optional in ONNX; output names are not.
    """

    rewritten: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def rewrite(self, node: ir.Node) -> None:
        self.rewritten.append(str(node.outputs[0].name))

    def skip(self, node: ir.Node, why: str) -> None:
        """Note why a site stays as it is; the first reason counts."""
        self.skipped.setdefault(str(node.outputs[0].name), why)


@dataclass(frozen=True)
class GraphPass:
    """One rewrite of an ONNX graph, and how exact it promises to be.

    Attributes:
        name: What reports and ``--no-pass`` call it.
        edit: Changes the graph in place and returns where.
        tolerance: The largest relative L2 change of any output that it may cause. 0 is bit-exact.
    """

    name: str
    edit: Callable[[ir.Graph], Sites]
    tolerance: float


class PassBroken(RuntimeError):
    """A pass that changed what the graph computes: our mistake, so the export stops."""


def apply(graph_pass: GraphPass, model: ir.Model, feeds: Feeds) -> tuple[ir.Model, PassReport]:
    """Run one pass on a copy of ``model``, beside ``model`` itself on ``feeds``.

    Raises:
        PassBroken: The inputs or outputs changed, or an output differs by more than the pass's
            tolerance.
    """
    [(edited, report)] = _apply_all([graph_pass], model, feeds)
    return edited, report


def apply_all(
    passes: Iterable[GraphPass],
    model: ir.Model,
    feeds: Feeds,
    on_stage: OnStage = unheard,
) -> tuple[ir.Model, tuple[PassReport, ...]]:
    """Run passes in order, each held against the graph before it; ``on_stage`` hears of each."""
    reports = []
    for edited, report in _apply_all(passes, model, feeds, on_stage):
        model = edited
        reports.append(report)
    return model, tuple(reports)


def interface(model: ir.Model) -> str:
    """The signature of a graph, e.g. ``x FLOAT [2,4] -> y FLOAT [2,3]``."""
    inputs, outputs = (
        ", ".join(f"{value.name} {value.dtype} {value.shape}" for value in values)
        for values in (model.graph.inputs, model.graph.outputs)
    )
    return f"{inputs} -> {outputs}"


def _apply_all(
    passes: Iterable[GraphPass],
    model: ir.Model,
    feeds: Feeds,
    on_stage: OnStage = unheard,
) -> Iterable[tuple[ir.Model, PassReport]]:
    before = run_graph(model, feeds)
    for graph_pass in passes:
        on_stage(f"pass {graph_pass.name}")
        edited = model.clone()
        sites = graph_pass.edit(edited.graph)
        RemoveUnusedNodesPass()(edited)
        _check_interface(graph_pass, model, edited)
        after = _run_edited(graph_pass, edited, feeds)
        for name, array in after.items():
            if array.shape != before[name].shape:
                raise PassBroken(
                    f"The pass {graph_pass.name} changed the shape of {name} from "
                    f"{list(before[name].shape)} to {list(array.shape)}"
                )
        change = max(relative_l2(before[name], after[name]) for name in before)
        if not change <= graph_pass.tolerance:
            raise PassBroken(
                f"The pass {graph_pass.name} changed the graph's output by {change:.1e} relative "
                f"L2, it promises at most {graph_pass.tolerance:.0e}"
            )
        report = report_change(
            graph_pass.name, model, edited, sites.rewritten, sites.skipped, change
        )
        yield edited, report
        model, before = edited, after


def _run_edited(graph_pass: GraphPass, edited: ir.Model, feeds: Feeds) -> dict[str, Array]:
    try:
        return run_graph(edited, feeds)
    except (BundleError, RuntimeError) as error:
        raise PassBroken(
            f"The pass {graph_pass.name} left a graph that does not run: {error}"
        ) from error


def _check_interface(graph_pass: GraphPass, model: ir.Model, edited: ir.Model) -> None:
    if interface(edited) != interface(model):
        raise PassBroken(
            f"The pass {graph_pass.name} changed the graph from {interface(model)} to "
            f"{interface(edited)}"
        )


def report_change(
    name: str,
    before: ir.Model,
    after: ir.Model,
    rewritten: Sequence[str],
    skipped: Mapping[str, str],
    relative_l2: float,
) -> PassReport:
    """Count what a step did to a graph."""
    return PassReport(
        name=name,
        nodes_before=dict(sorted(Counter(node.op_type for node in before.graph).items())),
        nodes_after=dict(sorted(Counter(node.op_type for node in after.graph).items())),
        weight_bytes_before=weight_bytes(before),
        weight_bytes_after=weight_bytes(after),
        rewritten=tuple(rewritten),
        skipped=dict(skipped),
        relative_l2=relative_l2,
        block_moves_before=moves_per_block(before.graph),
        block_moves_after=moves_per_block(after.graph),
    )
