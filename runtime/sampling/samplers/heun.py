"""Heun's method for flow models: of second order, two denoiser calls an interval."""

from __future__ import annotations

from dataclasses import dataclass

from ..sampler import Latent, Memory, Prediction
from ..schedule import FlowSchedule


@dataclass(frozen=True)
class Heun:
    """Go to the interval's end as Euler does, then go there again with the mean of both velocities.

    Every call counts as a step, so a run costs as much as Euler's with the same steps. An odd count
    leaves the last interval to Euler: 2 n - 1 steps are REPA's and diffusers' n.

    Its memory, halfway through an interval, is the latent at the beginning and its velocity.

    Attributes:
        schedule: The times that it visits, both ends of each interval.
    """

    schedule: FlowSchedule

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
        interval, corrects = divmod(index, 2)
        now, after = map(float, self.schedule.grid[interval : interval + 2])
        if not corrects:
            return latent + (after - now) * prediction.output, (latent, prediction.output)
        start, velocity = memory
        return start + 0.5 * (after - now) * (velocity + prediction.output), ()
