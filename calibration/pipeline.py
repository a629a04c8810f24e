"""The whole calibration in order: a bundle in, the same bundle with an int8 denoiser out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from ..runtime.backend import SessionOptions
from ..runtime.bundle import Bundle, open_bundle
from ..runtime.errors import CalibrationError, OptionError, one_of
from ..runtime.pipeline import OnStep, Settings
from .budget import Log, Search
from .candidate import candidate, golden_error
from .coverage import Coverage
from .gather import Watcher, take_ranges
from .methods import METHODS
from .placement import Site, Sites, find_sites
from .quantize import quantize
from .ranges import Ranges, read_ranges
from .recipe import CalibrationReport, Recipe
from .results import write_results
from .smoothing import apply_smoothing, smooth
from .trajectories import MAX_SEED, CalibrationSet, draw_set, read_set
from .tuning import Build, search_key, tune

BASES = ("fp16", "fp32")
FP32_TARGETS = ("onnxruntime", "openvino")  # a CPU has no fp16 arithmetic
FP16_OPSET = 19  # the first with fp16 scales
FP16_MAX = 65504.0
HELD_OUT = 4  # a quarter as many trajectories are held out

OnStage = Callable[[str], None]
"""Told what the calibration does next, in a few words."""


@dataclass(frozen=True)
class Work:
    """What every step of a calibration needs.

    Attributes:
        bundle: As it was opened.
        fp32: Its fp32 denoiser.
        sites: Of that graph.
        recipe: What is asked for.
        options: How ONNX Runtime runs the graphs.
        on_stage: Told what is done next.
        on_step: Told of every step of a trajectory.
    """

    bundle: Bundle
    fp32: ir.Model
    sites: Sites
    recipe: Recipe
    options: SessionOptions
    on_stage: OnStage
    on_step: OnStep

    @property
    def sha256(self) -> str:
        """Of the fp32 denoiser's file."""
        manifest = self.bundle.manifest
        return manifest.files[manifest.denoiser("fp32").path]

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
    on_stage: OnStage = lambda stage: None,
    on_step: OnStep = lambda images: None,
) -> CalibrationReport:
    """Draw trajectories, take ranges, and add an int8 denoiser to a bundle.

    Args:
        folder: The bundle; it is replaced when the new one is whole.
        recipe: What is asked for.
        set_path: A calibration set that was drawn before, on whatever machine.
        ranges_path: Ranges that were taken before; then no set is drawn.
        options: How ONNX Runtime runs the graphs.
        on_stage: Told what is done next.
        on_step: Told of every step of a trajectory.

    Returns:
        A report. Where its budget is not met, the bundle holds the best graph that was found.

    Raises:
        PitstopError: The bundle, the set or the ranges do not fit, or an option does not exist.
    """
    _check(recipe)
    bundle = open_bundle(folder)
    base = choose_base(bundle, recipe.base)
    fp32 = _read(bundle, "fp32")
    sites = find_sites(fp32.graph, recipe.placement)
    options = options or SessionOptions(provider="CPUExecutionProvider")
    work = Work(bundle, fp32, sites, recipe, options, on_stage, on_step)
    drawn, coverage = None, None
    if ranges_path is not None:
        ranges = read_ranges(ranges_path, work.sha256)
    else:
        drawn = _calibration_set(work, set_path)
        ranges, coverage = _gather(work, drawn)
    build = _builder(work, base, ranges)
    search = None if recipe.budget_db is None else _search(work, base, build, ranges)
    kept = search.chosen.kept if search else ()
    chosen = [site for site in sites.found if site.name not in kept]
    on_stage("writing the int8 denoiser")
    model = build(chosen)
    report = CalibrationReport(
        bundle=folder,
        base=base,
        sites=tuple(site.name for site in chosen),
        kept=kept,
        skipped=sites.skipped,
        ranges_sha256=ranges.sha256,
        relative_l2=golden_error(bundle, model, options),
        coverage=coverage,
        search=search,
    )
    write_results(bundle, model, report, ranges, drawn)
    _log_path(bundle).unlink(missing_ok=True)
    return report


def choose_base(bundle: Bundle, asked: str | None) -> str:
    """The precision of what is not quantized: fp16 where a device has it, and the bundle too.

    Raises:
        OptionError: There is no such base, the bundle has no denoiser of it, or its opset has no
            fp16 scales.
    """
    manifest = bundle.manifest
    if asked is None:
        by_itself = "fp16" in manifest.precisions and manifest.target not in FP32_TARGETS
        asked = "fp16" if by_itself else "fp32"
    if asked not in BASES:
        raise one_of("base", asked, BASES)
    spec = manifest.denoiser(asked)
    if asked == "fp16" and spec.opset < FP16_OPSET:
        raise OptionError(
            f"The fp16 denoiser has opset {spec.opset}, fp16 scales need {FP16_OPSET}",
            "Export the bundle again, or use `--base fp32`",
        )
    return asked


def _check(recipe: Recipe) -> None:
    if recipe.method not in METHODS:
        raise one_of("method", recipe.method, METHODS)
    if recipe.num < 1:
        raise OptionError(
            f"{recipe.num} trajectories were asked for", "Choose at least 1 with `--num`"
        )
    if not 0 <= recipe.seed < MAX_SEED:
        raise OptionError(f"The seed is {recipe.seed}", f"Choose one from 0 to {MAX_SEED - 1}")


def _calibration_set(work: Work, path: Path | None) -> CalibrationSet:
    if path is not None:
        return read_set(path, work.bundle.manifest)
    work.on_stage(f"drawing {work.recipe.num} trajectories")
    return _draw(work, work.recipe.num, work.settings, work.recipe.seed)


def _held_out(work: Work, settings: Settings, seed: int) -> CalibrationSet:
    """Trajectories of the next seed, a quarter as many."""
    num = max(1, work.recipe.num // HELD_OUT)
    work.on_stage(f"drawing {num} trajectories more, to check the ranges")
    return _draw(work, num, settings, seed + 1)


def _draw(work: Work, num: int, settings: Settings, seed: int) -> CalibrationSet:
    with candidate(work.bundle, work.fp32, "fp32", work.options) as pipeline:
        return draw_set(pipeline, num, settings, seed, work.on_step)


def _gather(work: Work, drawn: CalibrationSet) -> tuple[Ranges, Coverage]:
    held_out = _held_out(work, drawn.settings, drawn.seed)
    work.on_stage(f"gathering the ranges of {len(work.sites.found)} activations")
    return take_ranges(
        Watcher(work.bundle, work.sites.found, work.options),
        work.fp32,
        drawn,
        held_out,
        method=work.recipe.method,
        smoothed=work.recipe.smooth,
        graph_sha256=work.sha256,
    )


def _builder(work: Work, base: str, ranges: Ranges) -> Build:
    """What makes the int8 graph with Q/DQ at the sites that it is given."""
    thresholds = {name: one.threshold for name, one in ranges.by_tensor.items()}
    for site in work.sites.found:
        if site.tensor not in thresholds:
            raise CalibrationError(
                f"The ranges have none for {site.name}",
                "Take them again with the same `--attention` and `--no-bridge`",
            )
        amax = ranges.by_tensor[site.tensor].amax
        if base == "fp16" and amax > FP16_MAX:
            raise CalibrationError(
                f"{site.name} reads values up to {amax:.0f}, fp16 ends at {FP16_MAX:.0f}",
                "Use `--base fp32`",
            )
    smoothed = smooth(work.fp32.graph, ranges.smoothing)
    exact = apply_smoothing(work.fp32, smoothed)
    model = exact if base == "fp32" else apply_smoothing(_read(work.bundle, base), smoothed)
    constants = exact.graph.initializers.items()
    weights = {name: one.const_value for name, one in constants if one.const_value is not None}

    def build(chosen: Sequence[Site]) -> ir.Model:
        return quantize(model, weights, chosen, thresholds)

    return build


def _search(work: Work, base: str, build: Build, ranges: Ranges) -> Search:
    recipe, manifest = work.recipe, work.bundle.manifest
    assert recipe.budget_db is not None
    base_sha256 = manifest.files[manifest.denoiser(base).path]
    return tune(
        work.bundle,
        work.fp32,
        build,
        work.sites.found,
        _held_out(work, work.settings, recipe.seed),
        budget_db=recipe.budget_db,
        log=Log(_log_path(work.bundle), search_key(ranges, base_sha256, work.settings)),
        options=work.options,
        on_try=work.on_stage,
    )


def _log_path(bundle: Bundle) -> Path:
    """Beside the bundle, which is replaced as a whole."""
    folder = bundle.folder.resolve()
    return folder.with_name(f"{folder.name}.budget.jsonl")


def _read(bundle: Bundle, precision: str) -> ir.Model:
    return ir.load(bundle.path(bundle.manifest.denoiser(precision).path))
