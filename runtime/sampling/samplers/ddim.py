"""DDIM (Song et al., 2021): deterministic at eta 0, as noisy as DDPM at eta 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..found import cut, image_in, noise_in
from ..sampler import EPSILON, Latent, Memory, Prediction
from ..schedule import Schedule


@dataclass(frozen=True)
class Ddim:
    """Predict the image, then go back to the next noise level along the same noise (eq. 12).

    At eta 0 it is Euler's method too: diffusers' EulerDiscrete, on latents of another scale.

    Attributes:
        schedule: The timesteps that it visits.
        eta: The share of DDPM's noise that is drawn afresh, in [0, 1] (eq. 16).
        predicts: What the model finds: ``epsilon``, ``v_prediction`` or ``sample``.
        clip: What the predicted image is cut to, plus and minus; 0 for no cut.
    """

    schedule: Schedule
    eta: float = 0.0
    predicts: str = EPSILON
    clip: float = 0.0

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
        now, after = self.schedule.shares(index)
        fresh = self._fresh(now, after)
        epsilon = noise_in(latent, prediction.output, now, self.predicts)
        image = cut(image_in(latent, prediction.output, now, self.predicts), self.clip)
        moved = after**0.5 * image + (1 - after - fresh**2) ** 0.5 * epsilon
        if noise is not None:
            moved = moved + fresh * noise
        return moved, memory

    def _fresh(self, now: float, after: float) -> float:
        """The deviation of the noise that is drawn afresh."""
        if not self.eta:
            return 0.0
        return self.eta * float(np.sqrt((1 - after) / (1 - now) * (1 - now / after)))
