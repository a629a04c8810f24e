"""The whole calibration in order: a bundle in, the same with a quantized denoiser out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from .. import CalibrationError, OptionError
from ..graphs.graph_file import read_graph
from ..runtime.backend import SessionOptions
from ..runtime.bundle.folder import Bundle, open_bundle
from ..runtime.bundle.precision import FP16
from ..runtime.sampling.settings import Settings
from ..runtime.stage import OnStage, unheard
from .base_precision import choose_base
from .observed.coverage import Coverage
from .observed.gather import Watcher, take_ranges
from .observed.ranges import REMEDY, Ranges, read_ranges
from .qdq.placement import Site, Sites, find_sites, is_shifted
from .qdq.quantize import quantize
from .qdq.smoothing import apply_smoothing, smooth, why_not_smooth
from .recipe import CalibrationReport, Recipe
from .results import write_results
from .search.budget import Search, open_log
from .search.budget_search import Build, search_key, tune
from .sets.calibration_set import CalibrationSet, read_set
from .sets.trajectories import draw_set, trajectories_in
from .sets.unbundled import golden_error, unbundled

HELD_OUT = 4  # a quarter as many trajectories are held out


@dataclass(frozen=True)
class Work:
    """What every step of a calibration needs.

    Attributes:
        bundle: As it was opened.
        base: The precision of what is not quantized.
        fp32: The fp32 denoiser.
        sites: Of that graph.
        recipe: What is asked for.
        options: How ONNX Runtime runs the graphs.
        on_stage: Told what is done next.
    """

    bundle: Bundle
    base: str
    fp32: ir.Model
    sites: Sites
    recipe: Recipe
    options: SessionOptions
    on_stage: OnStage

    def sha256(self, precision: str) -> str:
        """Of a denoiser's file, and of its weights where they are beside it."""
        return self.bundle.manifest.graph_sha256(f"denoiser.{precision}")

    @property
    def settings(self) -> Settings:
        """How trajectories are sampled, where no set says it."""
        return self.recipe.settings(self.bundle.manifest)


def calibrate_bundle(
    folder: Path,
    recipe: Recipe,
    *,
    set_path: Path | None = None,
    ranges_path: Path | None = None,
    options: SessionOptions | None = None,
    on_stage: OnStage = unheard,
) -> CalibrationReport:
    """Draw trajectories, take ranges, and add a quantized denoiser to a bundle.

    Args:
        folder: The bundle; it is replaced when the new one is whole.
        recipe: What is asked for.
        set_path: A calibration set that was drawn before, on whatever machine.
        ranges_path: Ranges that were taken before; then no set is drawn.
        options: How ONNX Runtime runs the graphs.
        on_stage: Told what is done next.

    Returns:
        A report. Where its budget is not met, the bundle holds the best graph that was found.

    Raises:
        PitstopError: The bundle, the set or the ranges do not fit, or an option does not exist.
    """
    if set_path is not None and ranges_path is not None:
        raise OptionError(
            "Both a calibration set and ranges were given", "Leave out `--set`: ranges need none"
        )
    bundle = open_bundle(Path(os.path.abspath(folder)))  # "." is moved away at the end
    base = choose_base(bundle.manifest, recipe.base, recipe.precision)
    fp32 = _read(bundle, "fp32")
    if recipe.placement.bridge and is_shifted(fp32.graph):
        raise OptionError(
            "The bridge of this bundle is a sum over shifted grids, which has no int8 form",
            "Leave out `--bridge`, or export with `--no-pass shift_taps`",
        )
    sites = find_sites(fp32.graph, recipe.placement.settled(bundle.manifest.target))
    options = options or SessionOptions(provider="CPUExecutionProvider")
    work = Work(bundle, base, fp32, sites, recipe, options, on_stage)
    drawn, held_out, coverage = None, None, None
    if ranges_path is not None:
        ranges = read_ranges(ranges_path, work.sha256("fp32"))
        if why := why_not_smooth(fp32.graph, ranges.smoothing):
            raise CalibrationError(f"{ranges_path} has {why}", REMEDY)
    else:
        drawn = _calibration_set(work, set_path)
        held_out = _held_out(work, trajectories_in(drawn), drawn.settings, drawn.seed)
        ranges, coverage = _gather(work, drawn, held_out)
    build = _builder(work, ranges)
    search = None
    if recipe.budget_db is not None:
        held_out = held_out or _held_out(work, recipe.num, work.settings, recipe.seed)
        search = _search(work, recipe.budget_db, build, ranges, held_out)
    return _write(work, build, ranges, drawn, coverage, search)


def _calibration_set(work: Work, path: Path | None) -> CalibrationSet:
    if path is not None:
        return read_set(path, work.bundle.manifest)
    num = work.recipe.num
    what = "drawing " + _trajectories(num)
    return _draw(work, what, num, work.settings, work.recipe.seed)


def _held_out(work: Work, drawn: int, settings: Settings, seed: int) -> CalibrationSet:
    """Trajectories of the next seed, a quarter as many."""
    num = max(1, drawn // HELD_OUT)
    what = f"drawing {_trajectories(num)} more, to check the ranges"
    return _draw(work, what, num, settings, seed + 1)


def _draw(work: Work, what: str, num: int, settings: Settings, seed: int) -> CalibrationSet:
    moved = work.on_stage(what, num, settings.steps)
    with unbundled(work.bundle, work.fp32, "fp32", work.options) as pipeline:
        return draw_set(pipeline, num, settings, seed, moved)


def _trajectories(num: int) -> str:
    return "1 trajectory" if num == 1 else f"{num:,} trajectories"


def _gather(work: Work, drawn: CalibrationSet, held_out: CalibrationSet) -> tuple[Ranges, Coverage]:
    return take_ranges(
        Watcher(work.bundle, work.sites.found, work.options, work.on_stage),
        work.fp32,
        drawn,
        held_out,
        method=work.recipe.method,
        precision=work.recipe.precision,
        smoothed=work.recipe.smooth,
        graph_sha256=work.sha256("fp32"),
    )


def _builder(work: Work, ranges: Ranges) -> Build:
    """What makes the graph with Q/DQ at the sites that it is given."""
    thresholds = {name: one.threshold for name, one in ranges.by_tensor.items()}
    for site in work.sites.found:
        if site.tensor not in thresholds:
            raise CalibrationError(
                f"The ranges have none for {site.name}",
                "Take them again with the same `--attention` and `--bridge`",
            )
    base = work.fp32 if work.base == "fp32" else _read(work.bundle, work.base)
    _check_overflow(base.graph, work.sites.found, ranges)
    smoothed = smooth(work.fp32.graph, ranges.smoothing)
    exact = apply_smoothing(work.fp32, smoothed)
    model = exact if work.base == "fp32" else apply_smoothing(base, smoothed)
    constants = exact.graph.initializers.items()
    weights = {name: one.const_value for name, one in constants if one.const_value is not None}

    recipe = work.recipe

    def build(chosen: Sequence[Site]) -> ir.Model:
        return quantize(
            model, weights, chosen, thresholds, recipe.precision, recipe.weight_precision
        )

    return build


def _check_overflow(base: ir.Graph, sites: Sequence[Site], ranges: Ranges) -> None:
    """Refuse values that an fp16 operand cannot hold; a base keeps blocks that need it in fp32."""
    nodes = {node.outputs[0].name: node for node in base}
    for site in sites:
        operand = nodes[site.node].inputs[site.operand] if site.node in nodes else None
        one = ranges.by_tensor[site.tensor]
        amax = max(one.amax, one.threshold)
        if operand is not None and operand.dtype is ir.DataType.FLOAT16 and amax > FP16.largest:
            raise CalibrationError(
                f"{site.name} reads values up to {amax:.0f}, fp16 ends at {FP16.largest:.0f}",
                "Use `--base fp32`",
            )


def _search(
    work: Work, budget_db: float, build: Build, ranges: Ranges, held_out: CalibrationSet
) -> Search:
    sites, precision = work.sites.found, work.recipe.precision.name
    bits = work.recipe.weight_bits
    key = search_key(ranges, precision, bits, work.sha256(work.base), sites, held_out)
    return tune(
        work.bundle,
        work.fp32,
        build,
        sites,
        held_out,
        precision=precision,
        budget_db=budget_db,
        log=open_log(_log_path(work.bundle), key),
        options=work.options,
        on_stage=work.on_stage,
    )


def _write(
    work: Work,
    build: Build,
    ranges: Ranges,
    drawn: CalibrationSet | None,
    coverage: Coverage | None,
    search: Search | None,
) -> CalibrationReport:
    """Put the quantized denoiser into the bundle, without the sites that a search kept."""
    precision = work.recipe.precision.name
    work.on_stage(f"writing the {precision} denoiser")
    kept = search.chosen.kept if search else ()
    chosen = [site for site in work.sites.found if site.name not in kept]
    model = build(chosen)
    report = CalibrationReport(
        bundle=work.bundle.folder,
        precision=precision,
        weight_bits=work.recipe.weight_bits,
        base=work.base,
        sites=tuple(site.name for site in chosen),
        kept=kept,
        skipped=work.sites.skipped,
        ranges_sha256=ranges.sha256,
        relative_l2=golden_error(work.bundle, model, precision, work.options, work.on_stage),
        coverage=coverage,
        search=search,
    )
    write_results(work.bundle, model, report, ranges, drawn, work.on_stage)
    if search:
        _log_path(work.bundle).unlink(missing_ok=True)
    return report


def _log_path(bundle: Bundle) -> Path:
    """Beside the bundle, which is replaced as a whole."""
    folder = bundle.folder.resolve()
    return folder.with_name(f"{folder.name}.budget.jsonl")


def _read(bundle: Bundle, precision: str) -> ir.Model:
    return read_graph(bundle.path(bundle.manifest.denoiser(precision).path))
