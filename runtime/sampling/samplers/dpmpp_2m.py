"""DPM-Solver++(2M) (Lu et al., 2022): deterministic, of second order, one denoiser call a step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..found import image_in
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
        of_latent = ((1 - after) / (1 - now)) ** 0.5
        of_image = after**0.5 - of_latent * now**0.5  # alpha * (1 - exp(-h)), finite at the end
        moved = of_latent * latent + of_image * halfway(self.schedule, index, image, memory)
        return moved, (image,)


def halfway(schedule: Schedule, index: int, image: Latent, memory: Memory) -> Latent:
    """The image halfway through the step, on the line through the last two predictions."""
    if not memory or index == schedule.steps - 1:
        return image
    shares = (float(schedule.alpha_bar[index - 1]), *schedule.shares(index))
    before, now, after = map(half_log_snr, shares)
    if now == before:  # as many steps as in training visit one timestep twice: no line
        return image
    [image_before] = memory
    return image + 0.5 * (after - now) / (now - before) * (image - image_before)


def half_log_snr(alpha_bar: float) -> float:
    """Lambda, the paper's time: the logarithm of signal over noise, of amplitudes."""
    return 0.5 * math.log(alpha_bar / (1 - alpha_bar)) if alpha_bar < 1 else math.inf
