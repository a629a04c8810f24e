"""A sampler for a model that predicts something else than the noise: both are linear in each other.

With ``latent = a * image + s * noise``, where ``a**2`` is alpha_bar and ``s**2 = 1 - a**2``: the
velocity of Salimans and Ho (2022) is ``v = a * noise - s * image``, so ``noise = a * v + s *
latent``; of an image, ``noise = (latent - a * image) / s``.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..sampler import V_PREDICTION, Latent, Memory, Prediction, Sampler
from ..schedule import Schedule


@dataclass(frozen=True)
class Converted:
    """A rule that is given the noise, whatever the model predicts.

    Attributes:
        rule: For noise.
        schedule: What it visits.
        predicts: ``v_prediction`` or ``sample``.
    """

    rule: Sampler
    schedule: Schedule
    predicts: str

    @property
    def stochastic(self) -> bool:
        return self.rule.stochastic

    def step(
        self,
        index: int,
        latent: Latent,
        prediction: Prediction,
        noise: Latent | None,
        memory: Memory,
    ) -> tuple[Latent, Memory]:
        signal = float(self.schedule.alpha_bar[index])
        a, s = signal**0.5, (1 - signal) ** 0.5
        # In float64: where a is small, the rule's way back to the image would lose its digits.
        wide: Any = latent.astype(np.float64)
        found: Any = prediction.output.astype(np.float64)
        epsilon = a * found + s * wide if self.predicts == V_PREDICTION else (wide - a * found) / s
        as_noise = dataclasses.replace(prediction, output=epsilon)
        moved, kept = self.rule.step(index, wide, as_noise, noise, memory)
        dtype = latent.dtype
        return moved.astype(dtype), tuple(array.astype(dtype) for array in kept)
