"""What a run begins with in the place of noise alone: an image, and what of it is drawn anew.

The arithmetic is diffusers' own (its img2img, and its inpainting with a denoiser of plain latents).
The image is noised as far as the first of the last steps, which ``strength`` counts. A mask keeps
the rest: after each step, what is not drawn anew is the image again, as noisy as the next step
takes it, by the noise that the run began with; after the last step it is the image itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .noise import as_start
from .sampler import Latent
from .schedule import Visits


@dataclass(frozen=True, eq=False)
class Init:
    """An image to begin with.

    Attributes:
        latent: float32 [channel, row, column], the image as the denoiser has it.
        strength: The share of the steps that are taken, in (0, 1].
        mask: float32 [row, column] of 0 and 1, which is drawn anew; None for all.
        facts: What tells it from others, by name: hashes of image and mask. Where there are none,
            those of its latent and its mask, which differ with what encoded a picture.
    """

    latent: Latent
    strength: float
    mask: Latent | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.facts:
            parts = {"init_sha256": self.latent, "mask_sha256": self.mask}
            hashes = {name: sha256_of(part) for name, part in parts.items() if part is not None}
            object.__setattr__(self, "facts", hashes)

    def begin(self, schedule: Visits, noise: Latent) -> Latent:
        """What a run starts from; ``noise`` is one latent for each image.

        With a mask and all steps it is noise alone, as in diffusers.
        """
        if self.mask is not None and self.strength == 1:
            return as_start(noise, schedule)
        return self._noised(schedule, 0, noise)

    def keep(self, moved: Latent, schedule: Visits, index: int, noise: Latent) -> Latent:
        """The latents before step ``index``, or after the last: the image where it is kept."""
        if self.mask is None:
            return moved
        image = np.broadcast_to(self.latent, moved.shape)
        kept = image if index == schedule.steps else self._noised(schedule, index, noise)
        return (1 - self.mask) * kept + self.mask * moved

    def _noised(self, schedule: Visits, index: int, noise: Latent) -> Latent:
        of_image, of_noise = schedule.amplitudes(index)
        return of_image * self.latent + of_noise * noise


def strength_of(init: Init | None) -> float:
    """The share of a run's steps that are taken: all where it begins with no image."""
    return 1.0 if init is None else init.strength


def sha256_of(array: npt.NDArray[Any]) -> str:
    """Of an array's shape and numbers."""
    return hashlib.sha256(str(array.shape).encode() + array.tobytes()).hexdigest()
