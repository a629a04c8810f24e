"""A run whose images end in one ``.npz``: drawn into a folder first, so that it can be stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ... import FolderError, OptionError
from ..figures import counted
from ..picture import read_drawn
from ..pipeline import Pipeline
from ..sampling.asked import as_seeds
from ..sampling.init import Init
from ..sampling.settings import Settings
from ..stage import Moved, OnStage, unheard
from . import RunReport, draw_images
from .folder import MARK, PICTURE, adding_to, difference, leave_folder
from .npz_file import is_whole, read_npz_parameters, write_npz
from .parameters import shared_settings
from .plan import PlannedImage

REMEDY = (
    "Choose another file with `--npz`, remove this one (images that are drawn already are kept), "
    "or draw all anew with `--overwrite`"
)


def draw_npz(
    pipeline: Pipeline,
    plan: Sequence[PlannedImage],
    settings: Settings,
    *,
    npz: Path,
    out: Path | None = None,
    overwrite: bool = False,
    strict: bool = False,
    init: Init | None = None,
    on_stage: OnStage = unheard,
) -> RunReport:
    """Draw what is planned, and put it into one file in the order of the plan.

    Args:
        pipeline: What draws.
        plan: The images.
        settings: How they are sampled.
        npz: The file, as `npz_file` describes it. One of the same images is left as it is.
        out: The folder that keeps the images; by default one beside the file, which is removed
            when the file is whole.
        overwrite: Draw anew, and replace a file of other images.
        strict: Draw again what another backend drew; a file alone does not say which drew it.
        init: What all images begin with, in the place of noise alone.
        on_stage: Told of the drawing and of the writing.

    Raises:
        PitstopError: As `draw_images`, or the bundle draws latents, or the file is of other images.
    """
    if not pipeline.gives_pictures:
        raise OptionError(
            "This bundle has no decoder, and a .npz holds pictures",
            "Export it again with `--vae DIR`, or leave `--npz` out to save the latents",
        )
    settings = pipeline.settle(settings)
    as_seeds([image.seed for image in plan], len(plan))
    told = _told(pipeline, plan, settings, init)
    shared = shared_settings(pipeline, settings, init)
    done = not overwrite and _is_done(npz, told)
    beside = npz.with_name(f"{npz.name}.images")
    if done and not strict and out is None:
        with _as_of(npz):
            left = _leave(beside, shared, plan)
        return dataclasses.replace(_kept(pipeline, plan, settings, init, npz), left=left)

    def pack(report: RunReport) -> None:
        if report.drawn or not done:
            moved = on_stage(f"writing {npz.name}", len(plan))
            with adding_to(out or beside, shared):
                write_npz(
                    npz, _pictures(plan, out or beside, moved), len(plan), told,
                    before_place=lambda: overwrite or _is_done(npz, told),
                )  # fmt: skip

    with contextlib.nullcontext() if out else _as_of(npz):
        report = draw_images(
            pipeline, plan, settings, out or beside,
            overwrite=overwrite, strict=strict, init=init, on_stage=on_stage, when_whole=pack,
        )  # fmt: skip
        report = dataclasses.replace(report, npz=npz)
        if out is not None:
            return report
        left = _leave(beside, shared, plan)
    return dataclasses.replace(report, grid=None, why_no_grid=_no_grid(plan), left=left)


@contextlib.contextmanager
def _as_of(npz: Path) -> Iterator[None]:
    """Tell what is wrong with the folder beside a file as of that file, which was asked for."""
    try:
        yield
    except FolderError as error:
        anew = ", or draw anew with `--overwrite`" if "--overwrite" in error.remedy else ""
        raise OptionError(
            f"The images of {npz} are kept beside it until it is whole, and {error.problem}",
            f"Choose another file with `--npz`, or a folder for them with `--out`{anew}",
        ) from error


def _told(
    pipeline: Pipeline, plan: Sequence[PlannedImage], settings: Settings, init: Init | None
) -> dict[str, Any]:
    """What a file of these images says of them."""
    each = np.array([(image.label, image.seed) for image in plan], np.uint64)
    return {
        **shared_settings(pipeline, settings, init),
        "images": len(plan),
        "seed": plan[0].seed,
        "labels_and_seeds_sha256": hashlib.sha256(each.astype("<u8").tobytes()).hexdigest(),
        **_latents_told(plan),
    }


def _latents_told(plan: Sequence[PlannedImage]) -> dict[str, str]:
    """The hash of what the images start from, one after the other: there may be many."""
    starts = [image.latent for image in plan if image.latent is not None]
    if not starts:
        return {}
    digest = hashlib.sha256()
    for latent in starts:
        digest.update(latent.tobytes())
    return {"latents_sha256": digest.hexdigest()}


def _is_done(npz: Path, told: dict[str, Any]) -> bool:
    """Whether a file is there, holds these images, and is whole.

    Raises:
        OptionError: It holds others.
    """
    if not npz.exists():
        return False
    found = read_npz_parameters(npz)
    if found is None or MARK not in found:
        raise OptionError(f"{npz} is there, and does not say what drew it", REMEDY)
    if differs := difference(found, told):
        raise OptionError(f"{npz} {differs}", REMEDY)
    return is_whole(npz, told["images"])


def _pictures(plan: Sequence[PlannedImage], folder: Path, moved: Moved) -> Iterator[Image.Image]:
    for image in plan:
        yield read_drawn(folder / f"{image.stem}{PICTURE}")
        moved(1)


def _leave(beside: Path, shared: Mapping[str, Any], plan: Sequence[PlannedImage]) -> Path | None:
    """Leave the folder beside the file, which is given where it stays."""
    if beside.is_dir():
        leave_folder(beside, shared, plan)
    return beside if beside.is_dir() else None


def _no_grid(plan: Sequence[PlannedImage]) -> str:
    return f"none: {counted(len(plan), 'image')} in one .npz; `--out` keeps them beside it"


def _kept(
    pipeline: Pipeline,
    plan: Sequence[PlannedImage],
    settings: Settings,
    init: Init | None,
    npz: Path,
) -> RunReport:
    """The report of a run that found its file there."""
    return RunReport(
        drawn=0,
        kept=len(plan),
        seconds=0.0,
        seconds_saving=0.0,
        steps=0,
        calls=settings.calls or pipeline.steps(settings, init),
        device=pipeline.session.device,
        precision=pipeline.precision,
        grid=None,
        why_no_grid=_no_grid(plan),
        npz=npz,
    )
