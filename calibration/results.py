"""What a calibration leaves in the bundle: the quantized graph, its ranges, and their origin."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import onnx_ir as ir

from ..graphs.graph_file import write_graph
from ..runtime.bundle.folder import Bundle, extended_bundle, write_manifest
from ..runtime.bundle.manifest import PassReport
from ..runtime.figures import as_json
from ..runtime.stage import OnStage, unheard
from .observed.ranges import Ranges
from .recipe import CalibrationReport
from .sets.calibration_set import CalibrationSet, write_set

FOLDER = "calibration"


def write_results(
    bundle: Bundle,
    model: ir.Model,
    report: CalibrationReport,
    ranges: Ranges,
    drawn: CalibrationSet | None,
    on_stage: OnStage = unheard,
) -> None:
    """Put a bundle in the place of ``bundle`` that has the quantized denoiser too.

    Raises:
        BundleError: The folder cannot be written; the bundle is as it was.
    """
    manifest, name = bundle.manifest, f"denoiser.{report.precision}"
    path = f"graphs/{name}.onnx"
    stale = [file for file in manifest.files if file.startswith((path, f"{FOLDER}/"))]
    with extended_bundle(bundle, stale, on_stage) as folder:
        spec = write_graph(model, folder, name)
        made = _pass_report(bundle, report, spec.nodes, spec.weight_bytes)
        (folder / FOLDER).mkdir()
        (folder / FOLDER / "ranges.json").write_text(ranges.to_json(), encoding="utf-8")
        if drawn is not None:
            write_set(drawn, folder / FOLDER / "set.npz")
        for title, part in (("coverage", report.coverage), ("budget", report.search)):
            if part is not None:
                text = as_json(dataclasses.asdict(part), indent=1)
                (folder / FOLDER / f"{title}.json").write_text(text, encoding="utf-8")
        others = [one for one in manifest.passes if one.name != made.name]
        write_manifest(
            folder,
            dataclasses.replace(
                manifest, graphs={**manifest.graphs, name: spec}, passes=(*others, made)
            ),
        )


def _pass_report(
    bundle: Bundle, report: CalibrationReport, nodes: Mapping[str, int], weight_bytes: int
) -> PassReport:
    base = bundle.manifest.denoiser(report.base)
    kept = dict.fromkeys(report.kept, f"kept in {report.base} for the budget")
    return PassReport(
        name=report.precision,
        nodes_before=base.nodes,
        nodes_after=nodes,
        weight_bytes_before=base.weight_bytes,
        weight_bytes_after=weight_bytes,
        rewritten=report.sites,
        skipped={**report.skipped, **kept},
        relative_l2=report.relative_l2,
        weight_bits=report.weight_bits,
    )
