"""DDPM (Ho et al., 2020) on a respaced schedule: a step to the posterior's mean and fresh noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..found import cut, image_in
from ..sampler import EPSILON, Latent, Memory, Prediction
from ..schedule import Schedule


@dataclass(frozen=True)
class Ddpm:
    """Go to the mean of the posterior (eq. 7), and add fresh noise at every step but the last.

    Every beta is that between two timesteps visited (Nichol and Dhariwal, 2021, eq. 19). Official
    DiT replaces the posterior variance of the last step, which is 0, before it takes logarithms;
    no noise is drawn there, so nothing of it is seen. What is last is decided by the count of
    steps, as in official DiT, not by ``timestep > 0`` as in diffusers: a run of one step, from
    timestep 999, ends without noise here.

    Attributes:
        schedule: The timesteps that it visits.
        predicts: What the model finds: ``epsilon``, ``v_prediction`` or ``sample``.
        clip: What the predicted image is cut to, plus and minus; 0 for no cut.
        variance: Of the fresh noise, where the model does not learn it: the posterior's (small)
            or beta (large).
    """

    schedule: Schedule
    predicts: str = EPSILON
    clip: float = 0.0
    variance: Literal["fixed_small", "fixed_large"] = "fixed_small"

    @property
    def stochastic(self) -> bool:
        return True

    def step(
        self,
        index: int,
        latent: Latent,
        prediction: Prediction,
        noise: Latent | None,
        memory: Memory,
    ) -> tuple[Latent, Memory]:
        now, after = self.schedule.shares(index)
        beta = 1 - now / after
        image = cut(image_in(latent, prediction.output, now, self.predicts), self.clip)
        of_image = after**0.5 * beta / (1 - now)
        of_latent = (1 - beta) ** 0.5 * (1 - after) / (1 - now)
        mean = of_image * image + of_latent * latent
        if index == self.schedule.steps - 1:
            return mean, memory
        assert noise is not None, f"step {index} needs fresh noise"
        posterior = beta * (1 - after) / (1 - now)
        return mean + self.deviation(beta, posterior, prediction.variance) * noise, memory

    def deviation(self, beta: float, posterior: float, learned: Latent | None) -> float | Latent:
        """Of the fresh noise: a learned variance lies between the fixed two, in logarithms."""
        if learned is None:
            return math.sqrt(beta if self.variance == "fixed_large" else posterior)
        share = (learned + 1) / 2
        log_variance = share * math.log(beta) + (1 - share) * math.log(posterior)
        deviation: Latent = np.exp(0.5 * log_variance)
        return deviation
