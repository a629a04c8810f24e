"""Euler-Maruyama for flow models: the velocity's straight step, with noise taken out and put in."""

from __future__ import annotations

from dataclasses import dataclass

from ..sampler import Latent, Memory, Prediction
from ..schedule import FlowSchedule

LAST = 0.04  # the share of noise where the last step begins, in SiT's code and in REPA's


@dataclass(frozen=True)
class EulerMaruyama:
    """Solve the stochastic equation whose diffusion is the share of noise, ``sigma`` in SiT's code.

    With a share of noise s that falls by h, a drift that adds ``s`` times the score to the velocity
    is ``(2 - s) * velocity * (after - now) - h * latent``, and ``sqrt(2 * s * h)`` is the size of
    the fresh noise. REPA's ``euler_maruyama_sampler``, whose diffusion is ``2 t``, is the same. The
    last step is the drift alone (SiT's ``last_step="Mean"``), from a share of `LAST`.

    Attributes:
        schedule: The times that it visits, one for each interval.
    """

    schedule: FlowSchedule

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
        now, after = map(float, self.schedule.grid[index : index + 2])
        share, gone = abs(now - float(self.schedule.grid[-1])), abs(after - now)
        mean = (1 - gone) * latent + (2 - share) * (after - now) * prediction.output
        if index == self.schedule.steps - 1:
            return mean, memory
        assert noise is not None, f"step {index} needs fresh noise"
        return mean + (2 * share * gone) ** 0.5 * noise, memory
