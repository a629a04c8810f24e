"""What rules that solve for the predicted image share: its time, and its share of a step."""

from __future__ import annotations

import math

from .sampler import Latent, Memory
from .schedule import Schedule


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


def shares_of_step(now: float, after: float) -> tuple[float, float]:
    """The factors of latent and image in a deterministic step between two shares of signal."""
    of_latent = ((1 - after) / (1 - now)) ** 0.5
    return of_latent, after**0.5 - of_latent * now**0.5  # alpha * (1 - exp(-h)), finite at the end


def half_log_snr(alpha_bar: float) -> float:
    """Lambda, the paper's time: the logarithm of signal over noise, of amplitudes."""
    return 0.5 * math.log(alpha_bar / (1 - alpha_bar)) if alpha_bar < 1 else math.inf
