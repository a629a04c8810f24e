"""What the graph passes did, as a table: for export, and for inspect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from .printing import megabytes, table

if TYPE_CHECKING:
    from ..runtime.bundle.manifest import PassReport

LAYOUT = ("Transpose", "Reshape", "Slice", "Gather", "Squeeze", "Unsqueeze")


def passes_table(reports: Sequence[PassReport]) -> Table:
    """One row a pass: sites; nodes, layout nodes and weights before and after; the change."""
    columns = ["pass", "sites", "nodes", "layout", "weights", "rel. L2"]
    return table(columns, map(_row, reports))


def skipped_lines(reports: Sequence[PassReport]) -> list[str]:
    """Why sites were left alone: one line for each pass and reason, with how many."""
    reasons = Counter((done.name, why) for done in reports for why in done.skipped.values())
    return [f"{name} left {count}: {why}" for (name, why), count in reasons.items()]


def moves_lines(reports: Sequence[PassReport]) -> list[str]:
    """What each pass changed of the nodes that move data in a block, on average."""
    lines = []
    for done in reports:
        before, after = done.block_moves_before, done.block_moves_after
        changed = [
            f"{op} {before.get(op, 0):g} → {after.get(op, 0):g}"
            for op in dict.fromkeys([*before, *after])
            if before.get(op, 0) != after.get(op, 0)
        ]
        if changed:
            lines.append(f"{done.name}, in a block: {', '.join(changed)}")
    return lines


def _row(done: PassReport) -> list[str]:
    before, after = done.nodes_before, done.nodes_after
    layout = (sum(nodes.get(op, 0) for op in LAYOUT) for nodes in (before, after))
    return [
        done.name,
        str(len(done.rewritten)) if done.rewritten else "no site",
        f"{sum(before.values())} → {sum(after.values())}",
        " → ".join(map(str, layout)),
        f"{megabytes(done.weight_bytes_before)} → {megabytes(done.weight_bytes_after)}",
        f"{done.relative_l2:.0e}",
    ]
