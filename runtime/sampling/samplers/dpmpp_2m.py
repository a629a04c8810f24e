"""DPM-Solver++(2M) (Lu et al., 2022): deterministic, of second order, one denoiser call a step."""

from __future__ import annotations

from dataclasses import dataclass

from ..found import image_in
from ..halfway import halfway, shares_of_step
from ..sampler import EPSILON, Latent, Memory, Prediction
from ..schedule import Schedule


@dataclass(frozen=True)
class Dpmpp2m:
    """Solve a step exactly for the image predicted halfway through it (algorithm 2, midpoint form).

    Its memory is the image that the step before predicted. The first step has none and is of first
    order, as is the last: it ends at infinite signal-to-noise, where halfway means nothing. With
    this end, diffusers' rule for fewer than 15 steps asks for no more.

    Attributes:
        schedule: The timesteps that it visits.
        predicts: What the model finds: ``epsilon``, ``v_prediction`` or ``sample``.
    """

    schedule: Schedule
    predicts: str = EPSILON

    @property
    def stochastic(self) -> bool:
        return False

    def step(
        self,
        index: int,
        latent: Latent,
        prediction: Prediction,
        noise: Latent | None,
        memory: Memory,
    ) -> tuple[Latent, Memory]:
        now, after = self.schedule.shares(index)
        image = image_in(latent, prediction.output, now, self.predicts)
        of_latent, of_image = shares_of_step(now, after)
        moved = of_latent * latent + of_image * halfway(self.schedule, index, image, memory)
        return moved, (image,)
