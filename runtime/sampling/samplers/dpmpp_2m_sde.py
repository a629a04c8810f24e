"""DPM-Solver++ SDE (2M) (Lu et al., 2022): `dpmpp_2m` with fresh noise at each step."""

from __future__ import annotations

from dataclasses import dataclass

from ..found import image_in
from ..halfway import halfway
from ..sampler import EPSILON, Latent, Memory, Prediction
from ..schedule import Schedule


@dataclass(frozen=True)
class Dpmpp2mSde:
    """Solve the diffusion's stochastic equation for the image predicted halfway through a step.

    Its memory is `Dpmpp2m`'s, and its first and last steps are of first order as well. The last
    takes no noise.

    Attributes:
        schedule: The timesteps that it visits.
        predicts: What the model finds: ``epsilon``, ``v_prediction`` or ``sample``.
    """

    schedule: Schedule
    predicts: str = EPSILON

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
        assert noise is not None
        now, after = self.schedule.shares(index)
        image = image_in(latent, prediction.output, now, self.predicts)
        kept = now * (1 - after) / (after * (1 - now))  # exp(-2 h), of the noise's variance
        of_latent = ((1 - after) / (1 - now) * kept) ** 0.5
        of_image = after**0.5 * (1 - kept)
        # Where no signal is left at the last timestep of training, the one before may hold less.
        of_noise = ((1 - after) * max(1 - kept, 0.0)) ** 0.5
        between = halfway(self.schedule, index, image, memory)
        return of_latent * latent + of_image * between + of_noise * noise, (image,)
