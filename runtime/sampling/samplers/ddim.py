"""DDIM (Song et al., 2021): deterministic at eta 0, as noisy as DDPM at eta 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..sampler import Latent, Memory, Prediction
from ..schedule import Schedule


@dataclass(frozen=True)
class Ddim:
    """Predict the image, then go back to the next noise level along the same noise (eq. 12).

    Attributes:
        schedule: The timesteps that it visits.
        eta: The share of DDPM's noise that is drawn afresh, in [0, 1] (eq. 16).
    """

    schedule: Schedule
    eta: float = 0.0

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def step(
        self,
        index: int,
        latent: Latent,
        prediction: Prediction,
        noise: Latent | None,
        memory: Memory,
    ) -> tuple[Latent, Memory]:
        # Python floats: they leave float32 arrays float32 under every NumPy's promotion rules.
        now, after = map(float, self.schedule.alpha_bar[index : index + 2])
        fresh = self.eta * float(np.sqrt((1 - after) / (1 - now) * (1 - now / after)))
        epsilon = prediction.output
        image = (latent - (1 - now) ** 0.5 * epsilon) / now**0.5
        moved = after**0.5 * image + (1 - after - fresh**2) ** 0.5 * epsilon
        if noise is not None:
            moved = moved + fresh * noise
        return moved, memory
