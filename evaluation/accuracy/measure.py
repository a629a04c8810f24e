"""The whole accuracy check: every graph asked for beside PyTorch, with all that can be measured."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ... import OptionError, PitstopError
from ...runtime.backend import Backend, SessionOptions
from ...runtime.backends import AUTO, choose_backend
from ...runtime.bundle.folder import Bundle, open_bundle
from ...runtime.bundle.goldens import Goldens, read_goldens
from ...runtime.bundle.manifest import Manifest
from ...runtime.figures import counted
from ...runtime.opened import open_denoiser
from ...runtime.pipeline import Pipeline
from ...runtime.sampling.sampler import Latent
from ...runtime.sampling.settings import Settings
from ...runtime.stage import OnStage, unheard
from ..step_clock import StepClock
from .compare import Comparison, check_gates, compare
from .same_model import check_same_model
from .start_noise import why_other_noise

if TYPE_CHECKING:
    from ...models.denoiser import Denoiser
    from .blocks import BlockErrors
    from .quality import Judge, Judgement

ALL = "all"


@dataclass(frozen=True)
class Asked:
    """What is to be compared with what.

    Attributes:
        bundles: One or more, of one model.
        backends: Names, or ``auto``.
        precisions: Names; ``all`` alone for every one that runs here; none for the most exact.
        options: Of the sessions.
        checkpoint: PyTorch's side live, or None for the goldens of the first bundle.
        settings: How PyTorch samples, where it is live.
        images: How many it draws.
        min_psnr_db: The gate of the median image; None takes each precision's own.
        max_relative_l2: The gate of the worst call; None takes each precision's, if it has one.
        classifier: ``fashion`` or the file of a classifier, or None.
        calls: Steps of the candidates' that call the denoiser; None for all.
        whole: Measure what a report shows: PyTorch's own lower precisions, and the blocks even
            where the gate is met.
    """

    bundles: Sequence[Path]
    backends: Sequence[str] = ("auto",)
    precisions: Sequence[str] = ()
    options: SessionOptions = field(default_factory=SessionOptions)
    checkpoint: str | None = None
    settings: Settings = field(default_factory=Settings)
    images: int = 8
    min_psnr_db: float | None = None
    max_relative_l2: float | None = None
    classifier: str | None = None
    whole: bool = False
    calls: int | None = None


@dataclass(frozen=True)
class Quality:
    """What a classifier sees in a set of images.

    Attributes:
        class_agreement: Share of images, in [0, 1], that are named as they were asked for.
        frechet_distance: To PyTorch's images of the same noise, in the classifier's features;
            None with no more images than features.
    """

    class_agreement: float
    frechet_distance: float | None


@dataclass(frozen=True)
class Row:
    """One denoiser beside PyTorch in fp32.

    Attributes:
        name: What it is, for people, and unlike the other rows'.
        bundle: Where it comes from; None for PyTorch's own lower precisions, which have no gate.
        comparison: Its distance.
        quality: What the classifier sees, where one was given.
        blocks: The distance of its blocks, where it was measured.
        ms_per_image_step: Median time in milliseconds between two steps of the run that was
            compared, over how many images took them together; None with fewer than two steps.
    """

    name: str
    bundle: Bundle | None
    comparison: Comparison
    quality: Quality | None = None
    blocks: BlockErrors | None = None
    ms_per_image_step: float | None = None


@dataclass(frozen=True)
class Accuracy:
    """What was measured.

    Attributes:
        asked: What was asked for.
        reference: Where PyTorch's side comes from.
        goldens: PyTorch's side.
        class_agreement: Of PyTorch's own images, where a classifier was given.
        rows: The candidates.
        floors: What PyTorch loses by itself in lower precisions.
        left_out: What was not measured, and why: a sentence each.
        other_noise: How the noise that is drawn here differs from the goldens', or None.
        forecast_notes: What is to be said of how steps were forecast: a sentence each.
    """

    asked: Asked
    reference: str
    goldens: Goldens
    class_agreement: float | None
    rows: tuple[Row, ...]
    floors: tuple[Row, ...]
    left_out: tuple[str, ...]
    other_noise: str | None = None
    forecast_notes: tuple[str, ...] = ()

    @property
    def manifest(self) -> Manifest:
        """Of the first bundle; the model's part is every bundle's."""
        bundle = self.rows[0].bundle
        assert bundle is not None
        return bundle.manifest

    @property
    def passed(self) -> bool:
        return all(row.comparison.passed for row in self.rows)


def measure(asked: Asked, on_stage: OnStage = unheard) -> Accuracy:
    """Compare every graph that was asked for with PyTorch in fp32, on the same noise.

    Raises:
        PitstopError: Something that was asked for is not to be had, or does not fit the rest.
    """
    check_gates(asked.min_psnr_db, asked.max_relative_l2)
    on_stage("opening what is compared")
    bundles = [open_bundle(folder) for folder in asked.bundles]
    check_same_model(bundles)
    manifest = bundles[0].manifest
    judge = _open_judge(asked.classifier, manifest) if asked.classifier else None
    candidates, left_out = _open_candidates(asked, bundles)
    pytorch = _ask_pytorch(asked, bundles[0], judge, on_stage)
    steps, calls = pytorch.goldens.settings.steps, _calls(asked, pytorch.goldens)
    other_noise = why_other_noise(pytorch.goldens, manifest) if pytorch.model is None else None

    rows: list[Row] = []
    notes: dict[str, None] = {}
    for candidate in candidates:
        name = candidate.name + ("" if calls is None else f", {calls} of {steps} calls")
        row = _compare(pytorch, asked, name, candidate.pipeline, on_stage, calls)
        notes |= _forecast_note(candidate.pipeline, pytorch.goldens, calls)
        row = dataclasses.replace(row, bundle=candidate.bundle)
        candidate.pipeline.close()
        if asked.whole or not row.comparison.passed:
            on_stage(f"comparing the blocks: {candidate.name}")
            blocks = _compare_blocks(pytorch, candidate, asked.options)
            if isinstance(blocks, str):
                left_out.append(f"{row.name}, block by block: {blocks}")
            else:
                row = dataclasses.replace(row, blocks=blocks)
        rows.append(row)
    floors = _compare_floors(pytorch, asked, manifest, on_stage) if asked.whole else []
    if asked.whole and not floors:
        left_out.append(
            "PyTorch's own fp16 and bf16, the loss that comes without any export: they run with "
            "`--checkpoint` only"
        )
    return Accuracy(
        asked=asked,
        reference=pytorch.name,
        goldens=pytorch.goldens,
        class_agreement=pytorch.judged.agreement(pytorch.classes) if pytorch.judged else None,
        rows=tuple(rows),
        floors=tuple(floors),
        left_out=(*left_out, *_unmeasured(asked, rows, pytorch)),
        other_noise=other_noise,
        forecast_notes=tuple(notes),
    )


def _calls(asked: Asked, goldens: Goldens) -> int | None:
    """Steps that call the denoiser, of those that PyTorch drew in; None for all."""
    steps = goldens.settings.steps
    if asked.checkpoint is None and asked.calls is not None and asked.calls > steps:
        raise OptionError(
            f"{asked.calls} calls were asked for, and the goldens were drawn in {steps} steps",
            f"Choose at most {steps} calls, or draw more `--steps` live with `--checkpoint`",
        )
    return dataclasses.replace(goldens.settings, calls=asked.calls).calls


def _forecast_note(pipeline: Pipeline, goldens: Goldens, calls: int | None) -> dict[str, None]:
    """What is to be said of how its steps were forecast."""
    chosen = pipeline.forecast(dataclasses.replace(goldens.settings, calls=calls))
    return {chosen.note: None} if chosen is not None and chosen.note else {}


@dataclass(frozen=True)
class _PyTorch:
    """The reference: what it answered, itself where it is live, and the judge of its images."""

    name: str
    bundle: Bundle
    goldens: Goldens
    model: Denoiser | None
    judge: Judge | None

    @property
    def classes(self) -> list[int]:
        return self.bundle.manifest.label.classes_in(self.goldens.told)

    @functools.cached_property
    def judged(self) -> Judgement | None:
        return self.judge(self.goldens.trajectory[-1]) if self.judge else None


@dataclass(frozen=True)
class _Candidate:
    """A denoiser that is open, and what opened it."""

    name: str
    bundle: Bundle
    backend: Backend
    pipeline: Pipeline


def _open_candidates(asked: Asked, bundles: Sequence[Bundle]) -> tuple[list[_Candidate], list[str]]:
    """Every combination of bundle, backend and precision; with ``all``, what cannot run is told."""
    opened, left_out = [], []
    for bundle in bundles:
        for backend_name in asked.backends:
            for precision in _precisions(asked, bundle):
                if backend_name != AUTO:
                    choose_backend(backend_name, asked.options)
                try:
                    graphs = open_denoiser(bundle, precision, backend_name, asked.options)
                except PitstopError as error:
                    if list(asked.precisions) != [ALL]:
                        raise
                    left_out.append(f"{bundle.folder.name}, {precision}: {error.problem}")
                    refusal = error
                    continue
                pipeline = Pipeline.of(graphs)
                name = f"{precision}, {pipeline.session.device}"
                if len(bundles) > 1:
                    name = f"{bundle.folder.name}, {name}"
                opened.append(_Candidate(name, bundle, graphs.chosen.backend, pipeline))
    if not opened:
        raise refusal
    return opened, left_out


def _precisions(asked: Asked, bundle: Bundle) -> Sequence[str]:
    there = bundle.manifest.precisions
    if list(asked.precisions) == [ALL]:
        return there
    return asked.precisions or there[:1]


def _ask_pytorch(asked: Asked, bundle: Bundle, judge: Judge | None, on_stage: OnStage) -> _PyTorch:
    if asked.checkpoint is None:
        goldens = read_goldens(bundle.path(bundle.manifest.goldens))
        return _PyTorch("the bundle's goldens", bundle, goldens, None, judge)
    from ...export.goldens import draw_goldens
    from ...export.trace import TorchSession
    from .reference import load_model

    model = load_model(asked.checkpoint, bundle.manifest)
    pipeline = Pipeline(bundle.manifest, TorchSession(model), "fp32")
    settings = pipeline.settle(asked.settings)
    moved = on_stage(_drawing(asked.images, "PyTorch fp32"), asked.images, settings.steps)
    goldens = draw_goldens(pipeline, settings, asked.images, on_step=moved)
    return _PyTorch(f"{asked.checkpoint}, live", bundle, goldens, model, judge)


def _drawing(images: int, name: str) -> str:
    return f"drawing {counted(images, 'image')}: {name}"


def _compare(
    pytorch: _PyTorch,
    asked: Asked,
    name: str,
    pipeline: Pipeline,
    on_stage: OnStage,
    calls: int | None = None,
) -> Row:
    goldens = pytorch.goldens
    images = len(goldens.seeds)
    clock = StepClock(on_stage(_drawing(images, name), images, goldens.settings.steps))
    comparison = compare(
        pipeline,
        goldens,
        reference=pytorch.name,
        min_psnr_db=asked.min_psnr_db,
        max_relative_l2=asked.max_relative_l2,
        calls=calls,
        on_step=clock.tick,
    )
    quality = None if comparison.failure else _grade(pytorch, comparison.latents)
    return Row(name, None, comparison, quality, ms_per_image_step=clock.ms_per_image_step)


def _compare_floors(
    pytorch: _PyTorch, asked: Asked, manifest: Manifest, on_stage: OnStage
) -> list[Row]:
    """What PyTorch loses by itself in fp16 and bf16, where it is live."""
    if pytorch.model is None:
        return []
    from .reference import AUTOCAST, open_autocast

    opened = {name: open_autocast(pytorch.model, manifest, name) for name in AUTOCAST}
    return [
        _compare(pytorch, asked, f"{name}, PyTorch autocast", pipeline, on_stage)
        for name, pipeline in opened.items()
    ]


def _compare_blocks(
    pytorch: _PyTorch, candidate: _Candidate, options: SessionOptions
) -> BlockErrors | str:
    """The blocks' errors, or why there are none."""
    precision, bundle = candidate.pipeline.precision, candidate.bundle
    if candidate.backend.NEEDS_ENGINE:
        return "an engine cannot be taken apart; compare with `--backend onnxruntime` too"
    if pytorch.model is None and precision == "fp32":
        return "the goldens do not hold what PyTorch's blocks gave; it runs with `--checkpoint`"
    try:
        from .block_outputs import golden_calls, graph_flows
        from .blocks import NotApart, measure_blocks
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed (pip install 'pitstop[export]')"
    calls = golden_calls(pytorch.goldens, bundle.manifest.batch)
    try:
        if pytorch.model is None:
            flows, reference = graph_flows(bundle, calls), "the bundle's own fp32 graph"
        else:
            from .torch_block_outputs import torch_flows

            flows, reference = torch_flows(pytorch.model, bundle.manifest, calls), "PyTorch fp32"
        return measure_blocks(
            bundle, precision, candidate.backend, options, flows, reference=reference
        )
    except NotApart as error:
        return str(error)
    except PitstopError as error:
        return error.problem


def _open_judge(name: str, manifest: Manifest) -> Judge:
    from .quality import open_judge

    return open_judge(name, manifest)


def _grade(pytorch: _PyTorch, latents: Latent) -> Quality | None:
    if pytorch.judge is None or pytorch.judged is None:
        return None
    from .quality import frechet_distance

    judged = pytorch.judge(latents)
    images, features = judged.features.shape
    return Quality(
        judged.agreement(pytorch.classes),
        frechet_distance(pytorch.judged.features, judged.features) if images > features else None,
    )


def _unmeasured(asked: Asked, rows: Sequence[Row], pytorch: _PyTorch) -> list[str]:
    """Which columns have no figures, and why."""
    reasons = []
    if not any(row.comparison.ssim for row in rows):
        reasons.append("SSIM: scikit-image is not installed (pip install 'pitstop[report]')")
    if pytorch.judged is None:
        reasons.append("class agreement and Fréchet distance: no `--classifier` was given")
    elif not any(row.quality and row.quality.frechet_distance is not None for row in rows):
        images, features = pytorch.judged.features.shape
        reasons.append(
            f"Fréchet distance: {images} images are too few for {features} features; draw more "
            "with `--images`"
        )
    return reasons
