"""How close a backend's denoiser and images are to PyTorch's, on the same noise.

Works from a bundle's goldens alone, so a device can check itself; `evaluation.reference` draws
fresh goldens from a checkpoint where there is PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..export.parity import check_parity
from ..runtime.distance import latent_peak, psnr, relative_l2
from ..runtime.errors import OptionError
from ..runtime.goldens import Goldens
from ..runtime.pipeline import OnStep, Pipeline
from ..runtime.sampler import Latent

# What the median image must reach in dB, by precision, where the user sets no gate.
MIN_PSNR = {"fp32": 60.0, "fp16": 60.0, "bf16": 48.0, "int8": 40.0}
# What a single fp32 call must reach; other precisions are judged by their images.
MAX_RELATIVE_L2 = {"fp32": 1e-5}


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
        psnr_db: Of the final latent of each image. Infinite where both agree to the bit.
        min_psnr_db: The gate that the median image must reach.
        max_relative_l2: The gate for the worst single call, or None.
        latents: float32 [image, channel, row, column], where the backend ended.
    """

    backend: str
    precision: str
    reference: str
    relative_l2: tuple[float, ...]
    timesteps: tuple[int, ...]
    step_relative_l2: tuple[float, ...]
    psnr_db: tuple[float, ...]
    min_psnr_db: float
    max_relative_l2: float | None
    latents: Latent

    @property
    def relative_l2_max(self) -> float:
        return max(self.relative_l2)

    @property
    def psnr_db_median(self) -> float:
        return float(np.median(self.psnr_db))

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
    on_step: OnStep | None = None,
) -> Comparison:
    """Ask the candidate what PyTorch was asked, call by call and image by image.

    Args:
        candidate: An opened denoiser.
        goldens: PyTorch's answers.
        reference: Where they come from, for the report.
        min_psnr_db: The gate; None takes the one of the candidate's precision.
        on_step: Told of every step of the trajectories.

    Raises:
        OptionError: The gate is not a number.
    """
    if min_psnr_db is not None and np.isnan(min_psnr_db):
        raise OptionError("The gate is nan dB", "Choose a number with `--min-psnr`")
    parity = check_parity(candidate, goldens, MAX_RELATIVE_L2.get(candidate.precision, np.inf))
    walked = candidate.trajectories(
        goldens.classes.tolist(), goldens.seeds.tolist(), goldens.settings, on_step
    )
    steps = zip(goldens.trajectory, walked, strict=True)
    space = candidate.manifest.latent_space
    images = zip(goldens.trajectory[-1], walked[-1], strict=True)
    return Comparison(
        backend=candidate.session.device,
        precision=candidate.precision,
        reference=reference,
        relative_l2=parity.relative_l2,
        timesteps=tuple(map(int, goldens.timesteps)),
        step_relative_l2=tuple(relative_l2(expected, found) for expected, found in steps),
        psnr_db=tuple(psnr(a, b, latent_peak(a, space)) for a, b in images),
        min_psnr_db=MIN_PSNR[candidate.precision] if min_psnr_db is None else min_psnr_db,
        max_relative_l2=MAX_RELATIVE_L2.get(candidate.precision),
        latents=walked[-1],
    )
