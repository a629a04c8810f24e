"""Runs of images into a folder, which go on where they were stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..figures import counted
from ..image import make_grid, save_png
from ..picture import read_drawn
from ..pipeline import Pipeline
from ..samples import Samples
from ..sampling.asked import as_seeds
from ..sampling.init import Init
from ..sampling.sampler import Latent
from ..sampling.settings import Settings
from ..stage import OnStage, unheard
from .folder import GRID_FILE, LATENT, PICTURE, adding_to, drawing_into, is_drawn
from .latent_file import save_latent
from .parameters import parameters, shared_settings
from .plan import PlannedImage

GRID_LIMIT = 256  # images; a larger grid is no help to the eye
ZOOM_LIMIT = 128  # pixels along one side; smaller pictures are enlarged twofold in the grid


@dataclass(frozen=True)
class RunReport:
    """What a run did.

    Attributes:
        drawn: Images that were drawn.
        kept: Images that an earlier run had drawn with the same options.
        seconds: Time spent on drawing, decoding and writing included.
        seconds_saving: Of that, on decoding and writing.
        steps: Taken, a group of images at a time, whether or not they call the denoiser.
        calls: Steps of an image that call it.
        device: What ran the denoiser.
        precision: Of its graph.
        grid: The picture of all images, or None.
        why_no_grid: The reason, where there is none.
        why_on_host: Why the latents came back to the host at every step, where the denoiser has a
            loop that could have kept them.
        npz: The file that holds all images, where one was asked for.
        left: The folder beside that file, where it stays: it holds more than the run's images.
    """

    drawn: int
    kept: int
    seconds: float
    seconds_saving: float
    steps: int
    calls: int
    device: str
    precision: str
    grid: Path | None
    why_no_grid: str = ""
    why_on_host: str = ""
    npz: Path | None = None
    left: Path | None = None

    @property
    def ms_per_step(self) -> float | None:
        """Milliseconds of one step of one group of images; None where nothing was drawn."""
        return 1000 * (self.seconds - self.seconds_saving) / self.steps if self.steps else None

    def figures(self) -> dict[str, Any]:
        """The figures for ``--json``."""
        return {
            "images": self.drawn + self.kept,
            "drawn": self.drawn,
            "kept": self.kept,
            "seconds": self.seconds,
            "seconds_saving": self.seconds_saving,
            "ms_per_step": self.ms_per_step,
            "calls": self.calls,
            "backend": self.device,
            "precision": self.precision,
            "grid": str(self.grid) if self.grid else None,
            "npz": str(self.npz) if self.npz else None,
        }


def draw_images(
    pipeline: Pipeline,
    plan: Sequence[PlannedImage],
    settings: Settings,
    out: Path,
    *,
    overwrite: bool = False,
    strict: bool = False,
    init: Init | None = None,
    on_stage: OnStage = unheard,
    when_whole: Callable[[RunReport], object] = lambda report: None,
) -> RunReport:
    """Draw what is planned and not yet in ``out``, each image written as soon as it is done.

    Several processes may draw into one folder, if they agree in what `shared_settings` names.

    Args:
        pipeline: What draws.
        plan: The images.
        settings: How they are sampled.
        out: The folder.
        overwrite: Draw all that is planned anew, and remove what does not go with it.
        strict: Draw again what another backend drew.
        init: What all images begin with, in the place of noise alone.
        on_stage: Told of the drawing, an image and a step at a time.
        when_whole: Called when all images are there, and no other run may remove the folder yet.

    Raises:
        PitstopError: ``out`` cannot be written or holds images of other settings, or an option
            does not fit the bundle.
    """
    settings = pipeline.settle(settings)
    # Refuses options that do not fit before anything is written.
    pipeline.requests(pipeline.manifest.examples(1), [0], settings, init=init)
    shared = shared_settings(pipeline, settings, init)
    as_seeds([image.seed for image in plan], len(plan))
    with drawing_into(out, shared, plan, overwrite=overwrite):
        pending = [
            image
            for image in plan
            if not is_drawn(
                _path(pipeline, image, out), parameters(pipeline, image, shared), strict=strict
            )
        ]
        report = _draw(pipeline, plan, pending, settings, shared, out, init, on_stage)
        when_whole(report)
    return report


def _draw(
    pipeline: Pipeline,
    plan: Sequence[PlannedImage],
    pending: Sequence[PlannedImage],
    settings: Settings,
    shared: Mapping[str, Any],
    out: Path,
    init: Init | None,
    on_stage: OnStage,
) -> RunReport:
    """Draw the images of a plan that are not there yet."""
    steps = pipeline.sampler(settings, init).schedule.steps
    groups = pipeline.groups(len(pending), settings, init)
    moved = on_stage(f"drawing {counted(len(pending), 'image')}", len(pending), steps)
    started, seconds_saving = time.perf_counter(), 0.0
    for group in groups:
        images = pending[group]
        samples = pipeline(
            [image.label for image in images],
            seeds=[image.seed for image in images],
            **settings.as_dict(),
            init=init,
            latents=starts_of(images),
            on_step=moved,
        )
        sampled = time.perf_counter()
        _save(pipeline, images, shared, samples, out)
        seconds_saving += time.perf_counter() - sampled
    seconds = time.perf_counter() - started
    why_no_grid = _why_no_grid(pipeline, len(plan))
    return RunReport(
        drawn=len(pending),
        kept=len(plan) - len(pending),
        seconds=seconds,
        seconds_saving=seconds_saving,
        steps=len(groups) * steps,
        calls=settings.calls or steps,
        device=pipeline.session.device,
        precision=pipeline.precision,
        grid=None if why_no_grid else _save_grid(plan, out, shared),
        why_no_grid=why_no_grid,
        why_on_host=_why_on_host(pipeline, plan, settings, init),
    )


def starts_of(images: Sequence[PlannedImage]) -> Latent | None:
    """What the images of a plan start from; None where it is the noise of their seeds."""
    starts = [image.latent for image in images if image.latent is not None]
    return np.stack(starts) if starts else None


def _save(
    pipeline: Pipeline,
    images: Sequence[PlannedImage],
    shared: Mapping[str, Any],
    samples: Samples,
    out: Path,
) -> None:
    told = [parameters(pipeline, image, shared) for image in images]
    paths = [_path(pipeline, image, out) for image in images]
    with adding_to(out, shared):
        if pipeline.gives_pictures:
            for picture, path, one in zip(samples.pictures(), paths, told, strict=True):
                save_png(picture, path, one)
        else:
            for latent, path, one in zip(samples.latents, paths, told, strict=True):
                save_latent(latent, path, one)


def _path(pipeline: Pipeline, image: PlannedImage, out: Path) -> Path:
    return out / f"{image.stem}{PICTURE if pipeline.gives_pictures else LATENT}"


def _why_no_grid(pipeline: Pipeline, images: int) -> str:
    if not pipeline.gives_pictures:
        return "none: the bundle has no decoder, the latents are saved as .npy"
    return f"none: more than {GRID_LIMIT} images" if images > GRID_LIMIT else ""


def _why_on_host(
    pipeline: Pipeline, plan: Sequence[PlannedImage], settings: Settings, init: Init | None
) -> str:
    if not pipeline.loop.keeps_latents or not plan:
        return ""
    told = [pipeline.manifest.label.told(image.label) for image in plan]
    first, *_ = pipeline.requests(told, [image.seed for image in plan], settings, init=init)
    return pipeline.loop.why_not([first]) or ""


def _save_grid(plan: Sequence[PlannedImage], out: Path, settings: Mapping[str, Any]) -> Path:
    with adding_to(out, settings):
        pictures = [read_drawn(out / f"{image.stem}{PICTURE}") for image in plan]
        columns = math.ceil(math.sqrt(len(plan)))
        zoom = 2 if max(pictures[0].size) < ZOOM_LIMIT else 1
        told = {**settings, **_of_each(plan), "columns": columns, "zoom": zoom}
        save_png(make_grid(pictures, columns, zoom=zoom), out / GRID_FILE, told)
    return out / GRID_FILE


def _of_each(plan: Sequence[PlannedImage]) -> dict[str, Any]:
    """What one image alone has, of all images in the order of the grid."""
    return {
        "labels": [image.label for image in plan],
        "label_names": [image.name for image in plan],
        "seeds": [image.seed for image in plan],
    }
