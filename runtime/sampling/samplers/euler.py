"""Euler's method for flow models: one straight step along the velocity, of first order."""

from __future__ import annotations

from dataclasses import dataclass

from ..sampler import Latent, Memory, Prediction
from ..schedule import FlowSchedule


@dataclass(frozen=True)
class Euler:
    """Follow the velocity at the interval's beginning to its end.

    Attributes:
        schedule: The times that it visits, one for each interval.
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
        now, after = map(float, self.schedule.grid[index : index + 2])
        return latent + (after - now) * prediction.output, memory
