"""What a calibration leaves in the bundle: the int8 graph, its ranges, and where they come from."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from ..graphs.graph_file import write_graph
from ..runtime.bundle.folder import Bundle, extended_bundle, write_manifest
from ..runtime.bundle.manifest import PassReport
from .calibration_set import CalibrationSet, write_set
from .ranges import Ranges
from .recipe import CalibrationReport

FOLDER = "calibration"
INT8 = "denoiser.int8"
GRAPH = f"graphs/{INT8}.onnx"


def write_results(
    bundle: Bundle,
    model: ir.Model,
    report: CalibrationReport,
    ranges: Ranges,
    drawn: CalibrationSet | None,
) -> None:
    """Put a bundle in the place of ``bundle`` that has an int8 denoiser too.

    Raises:
        BundleError: The folder cannot be written; the bundle is as it was.
    """
    manifest = bundle.manifest
    stale = [name for name in manifest.files if name.startswith((GRAPH, f"{FOLDER}/"))]
    with extended_bundle(bundle, stale) as folder:
        spec = write_graph(model, folder, INT8)
        made = _pass_report(bundle, report, spec.nodes, spec.weight_bytes)
        (folder / FOLDER).mkdir()
        (folder / FOLDER / "ranges.json").write_text(ranges.to_json(), encoding="utf-8")
        if drawn is not None:
            write_set(drawn, folder / FOLDER / "set.npz")
        for name, part in (("coverage", report.coverage), ("budget", report.search)):
            if part is not None:
                path = folder / FOLDER / f"{name}.json"
                text = json.dumps(_finite(dataclasses.asdict(part)), indent=1, allow_nan=False)
                path.write_text(text + "\n", encoding="utf-8")
        others = [one for one in manifest.passes if one.name != made.name]
        write_manifest(
            folder,
            dataclasses.replace(
                manifest, graphs={**manifest.graphs, INT8: spec}, passes=(*others, made)
            ),
        )


def _pass_report(
    bundle: Bundle, report: CalibrationReport, nodes: Mapping[str, int], weight_bytes: int
) -> PassReport:
    base = bundle.manifest.denoiser(report.base)
    kept = dict.fromkeys(report.kept, f"kept in {report.base} for the budget")
    return PassReport(
        name="int8",
        nodes_before=base.nodes,
        nodes_after=nodes,
        weight_bytes_before=base.weight_bytes,
        weight_bytes_after=weight_bytes,
        rewritten=report.sites,
        skipped={**report.skipped, **kept},
        relative_l2=report.relative_l2,
    )


def _finite(value: Any) -> Any:
    """As JSON has it: a number that is not finite becomes null."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
