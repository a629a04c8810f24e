"""Trajectories with all calls, each group kept in a file until the fit is done."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import BundleError, NonFiniteError
from ..runtime.array_file import BROKEN
from ..runtime.pipeline import OnStep, Pipeline
from ..runtime.sampling.condition import stack
from ..runtime.sampling.host_loop import HostLoop
from ..runtime.sampling.request import Request
from ..runtime.sampling.sampler import Latent, Prediction
from ..runtime.sampling.settings import Settings
from ..runtime.session import Array
from ..runtime.whole_file import whole_file
from .recorded import Recording

FIRST_SEED = 1 << 62  # no seed of a calibration's, or that images are compared with


@dataclass(frozen=True)
class Walked:
    """One call's images on their way, all steps called.

    Attributes:
        request: What was drawn.
        said: float32 [step, image, channel, row, column], after guidance.
        variance: As ``said``, what was learned; None where nothing is.
        drawn: float32 [image, channel, row, column], the last latents.
    """

    request: Request
    said: Latent
    variance: Latent | None
    drawn: Latent

    def predictions(self, steps: int) -> list[Prediction]:
        """What was said at the first steps."""
        return [
            Prediction(self.said[step], None if self.variance is None else self.variance[step])
            for step in range(steps)
        ]


def walk_all(
    pipeline: Pipeline,
    settings: Settings,
    numbers: Sequence[int],
    folder: Path,
    on_step: OnStep,
) -> list[Walked]:
    """Draw the trajectories of some numbers, or read those that an earlier run has drawn.

    Args:
        pipeline: The denoiser.
        settings: How they are sampled, with all calls.
        numbers: Each is a seed; what the images are told is spread over all classes.
        folder: For their files.
        on_step: Told of every step, those that were read too.
    """
    manifest = pipeline.manifest
    told = manifest.spread(len(numbers))
    seeds = [FIRST_SEED + number for number in numbers]
    walked = []
    for request, first in zip(
        pipeline.requests(told, seeds, settings),
        [numbers[group.start] for group in pipeline.groups(len(numbers), settings)],
        strict=True,
    ):
        path = folder / f"cfg{settings.cfg_scale!r}-{first:06}.npz"
        one = _read(path, request, manifest.latent_shape)
        if one is None:
            one = _walk(pipeline, request)
            _write(one, path)
        on_step(request.images * request.steps)
        walked.append(one)
    return walked


def _walk(pipeline: Pipeline, request: Request) -> Walked:
    loop = HostLoop(pipeline.manifest, pipeline.session, pipeline.conditioner)
    recording = Recording(request.sampler)
    [drawn] = loop.draw([dataclasses.replace(request, sampler=recording)], lambda latents: None)
    said = np.stack([one.output for one in recording.kept])
    variances = [one.variance for one in recording.kept if one.variance is not None]
    if not np.isfinite(said).all():
        raise NonFiniteError(
            f"The denoiser left the finite numbers at guidance {request.cfg_scale:g}",
            "Fit at a lower `--cfg-scale`",
        )
    return Walked(request, said, np.stack(variances) if variances else None, drawn)


def _write(walked: Walked, path: Path) -> None:
    arrays = {"said": walked.said, "drawn": walked.drawn, **_asked(walked.request)}
    if walked.variance is not None:
        arrays["variance"] = walked.variance
    try:
        with whole_file(path) as beside, beside.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise BundleError(
            f"{path} cannot be written ({error.strerror or error})", "Free some space there"
        ) from error


def _asked(request: Request) -> dict[str, Array]:
    """The seeds, and what each image was told, by their names in a file."""
    told = {f"told.{name}": array for name, array in stack(request.conditions).items()}
    return {"seeds": np.array(request.seeds, dtype=np.uint64), **told}


def _read(path: Path, request: Request, shape: tuple[int, ...]) -> Walked | None:
    """What an earlier run drew; None where it is not there, not whole, or something else.

    Args:
        path: The file.
        request: What it must have drawn.
        shape: [channel, row, column], of a latent.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            variance = arrays["variance"] if "variance" in arrays.files else None
            walked = Walked(request, arrays["said"], variance, arrays["drawn"])
            alike = all(np.array_equal(arrays[k], wanted) for k, wanted in _asked(request).items())
    except BROKEN:
        return None
    each = (request.steps, request.images, *shape)
    whole = walked.drawn.shape == each[1:] and walked.said.shape == each
    return walked if alike and whole and (variance is None or variance.shape == each) else None
