"""How close a backend's denoiser and images are to PyTorch's, on the same noise.

Works from a bundle's goldens alone, so a device can check itself; `evaluation.accuracy.reference`
draws fresh goldens from a checkpoint where there is PyTorch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from ... import NonFiniteError, OptionError
from ...export.parity import check_parity
from ...runtime.bundle.goldens import Goldens
from ...runtime.bundle.precision import PRECISIONS
from ...runtime.distance import latent_peak, psnr, relative_l2
from ...runtime.pipeline import OnStep, Pipeline
from ...runtime.sampling.condition import unstack
from ...runtime.sampling.sampler import Latent
from ...runtime.sampling.settings import Settings
from .ssim import measure_ssim

FEWER_CALLS_DB = 40.0  # the gate of the median image where steps are forecast


@dataclass(frozen=True)
class Comparison:
    """The distance between PyTorch in fp32 and a backend, and whether it meets the gate.

    Attributes:
        backend: What ran the denoiser.
        precision: Of the denoiser's graph.
        reference: Where PyTorch's side comes from: the goldens, or a live checkpoint.
        relative_l2: Of single calls on the same inputs, one for each golden timestep.
        timesteps: Those timesteps.
        step_relative_l2: Of the latents after each step, both sides walking by themselves.
        step_psnr_db: Of the median latent after each step.
        psnr_db: Of the final latent of each image. Infinite where both agree to the bit.
        ssim: Structural similarity of each image, at most 1; empty where it cannot be measured.
        min_psnr_db: The gate that the median image must reach.
        max_relative_l2: The gate for the worst single call, or None.
        latents: float32 [image, channel, row, column], where the backend ended; NaN where it did
            not end.
        failure: Why it did not, or None.
        calls: Steps that called the denoiser, where some did not.
    """

    backend: str
    precision: str
    reference: str
    relative_l2: tuple[float, ...]
    timesteps: tuple[float, ...]
    step_relative_l2: tuple[float, ...]
    step_psnr_db: tuple[float, ...]
    psnr_db: tuple[float, ...]
    ssim: tuple[float, ...]
    min_psnr_db: float
    max_relative_l2: float | None
    latents: Latent
    failure: str | None = None
    calls: int | None = None

    @property
    def relative_l2_max(self) -> float:
        return max(self.relative_l2)

    @property
    def psnr_db_median(self) -> float:
        return float(np.median(self.psnr_db))

    @property
    def ssim_median(self) -> float | None:
        return float(np.median(self.ssim)) if self.ssim else None

    @property
    def worst_first(self) -> list[int]:
        """The images, the farthest from PyTorch's first."""
        return [int(image) for image in np.argsort(np.nan_to_num(self.psnr_db, nan=-np.inf))]

    @property
    def passed(self) -> bool:
        close = self.max_relative_l2 is None or self.relative_l2_max <= self.max_relative_l2
        return close and self.psnr_db_median >= self.min_psnr_db


def compare(
    candidate: Pipeline,
    goldens: Goldens,
    *,
    reference: str,
    min_psnr_db: float | None = None,
    max_relative_l2: float | None = None,
    calls: int | None = None,
    on_step: OnStep | None = None,
) -> Comparison:
    """Ask the candidate what PyTorch was asked, call by call and image by image.

    Args:
        candidate: An opened denoiser.
        goldens: PyTorch's answers.
        reference: Where they come from, for the report.
        min_psnr_db: The gate of the median image; None takes the one of the candidate's precision.
        max_relative_l2: The gate of the worst call; None takes the precision's, if it has one.
        calls: Steps of the candidate's that call the denoiser, the others forecast; None for all,
            as PyTorch's. With fewer the gate of the median image is lower.
        on_step: Told of every step of the trajectories.

    Raises:
        OptionError: A gate is not a number, or calls that the goldens' steps do not have.
    """
    check_gates(min_psnr_db, max_relative_l2)
    gates = PRECISIONS[candidate.precision]
    settings = dataclasses.replace(goldens.settings, calls=calls)
    gate = gates.min_psnr_db if settings.calls is None else min(gates.min_psnr_db, FEWER_CALLS_DB)
    parity = check_parity(candidate, goldens, np.inf)
    walked, failure = _walk(candidate, goldens, settings, on_step)
    steps = [
        [psnr(a, b, latent_peak(a, candidate.manifest.latent_space)) for a, b in images]
        for images in map(_pairs, goldens.trajectory, walked)
    ]
    return Comparison(
        backend=candidate.session.device,
        precision=candidate.precision,
        reference=reference,
        relative_l2=parity.relative_l2,
        timesteps=tuple(goldens.timesteps.tolist()),
        step_relative_l2=tuple(map(relative_l2, goldens.trajectory, walked)),
        step_psnr_db=tuple(float(np.median(images)) for images in steps),
        psnr_db=tuple(steps[-1]),
        ssim=measure_ssim(goldens.trajectory[-1], walked[-1], candidate.manifest.latent_space),
        min_psnr_db=gate if min_psnr_db is None else min_psnr_db,
        max_relative_l2=gates.max_relative_l2 if max_relative_l2 is None else max_relative_l2,
        latents=walked[-1],
        failure=failure,
        calls=settings.calls,
    )


def check_gates(min_psnr_db: float | None, max_relative_l2: float | None) -> None:
    """Refuse a gate that nothing could be held against.

    Raises:
        OptionError: A gate is not a number.
    """
    for gate, option in ((min_psnr_db, "--min-psnr"), (max_relative_l2, "--max-rel-l2")):
        if gate is not None and np.isnan(gate):
            raise OptionError(f"The gate {option} is {gate}", f"Choose a number with `{option}`")


def _walk(
    candidate: Pipeline, goldens: Goldens, settings: Settings, on_step: OnStep | None
) -> tuple[Latent, str | None]:
    """The candidate's trajectory; NaN, and why, where it left the finite numbers.

    Where the latents can stay on a device, it ends with what is drawn there when nobody looks.
    """
    run = unstack(goldens.told), goldens.seeds.tolist(), settings
    try:
        walked = candidate.trajectories(*run, on_step)
        if candidate.loop.keeps_latents:
            walked[-1] = candidate.draw(*run)
    except NonFiniteError as error:
        return np.full_like(goldens.trajectory, np.nan), error.problem
    return walked, None


def _pairs(expected: Latent, found: Latent) -> list[tuple[Latent, Latent]]:
    return list(zip(expected, found, strict=True))
