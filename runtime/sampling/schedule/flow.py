"""The straight line from noise to data that flow models are trained on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from . import MOST_FLOW_STEPS, FlowSchedule, Table, Timesteps, check_steps


@dataclass(frozen=True)
class LinearFlow:
    """The straight line from noise to data: ``latent = share * data + (1 - share) * noise``.

    The velocity that a model predicts is the latent's derivative by its own time, whichever way
    that runs.

    Attributes:
        data_at: The time of the data, 1 (SiT) or 0 (REPA); the noise is at the other end.
        unit: What the denoiser is fed for the time 1: 1, or diffusers' ``num_train_timesteps``.
        shift: How much longer a run stays at the noise: a share of noise s becomes
            ``shift * s / (1 + (shift - 1) * s)`` (Esser et al., 2024, section 5.3.2). 1 is none.
        least: The share of noise, before the shift, at which a run's last step begins: with
            diffusers that of training's first timestep, which a shift by a number moves too (so
            twice in all); 0 where all steps are alike.
    """

    data_at: int = 0
    unit: float = 1.0
    shift: float = 1.0
    least: float = 0.0

    @property
    def called(self) -> str:
        """In users' words."""
        shifted = f", shifted by {self.shift:g}" if self.shift != 1 else ""
        unit = f" of times up to {self.unit:g}" if self.unit != 1 else ""
        return f"the straight line from noise to data, the data at {self.data_at}{unit}{shifted}"

    @property
    def last_timestep(self) -> float:
        return self.unit

    @property
    def most_steps(self) -> int:
        return MOST_FLOW_STEPS

    def noise_level(self, timesteps: Timesteps | Table) -> Table:
        return np.abs(np.asarray(timesteps, dtype=np.float64) / self.unit - self.data_at)

    def spread(self, count: int) -> Table:
        return np.linspace(0, self.unit, count)

    def shifted(self, shift: float, *, dynamic: bool = False) -> LinearFlow:
        """The line with another shift, as diffusers' scheduler is where it is made with that."""
        first = 1 / self.unit if self.least else 0.0
        least = first if dynamic else shift * first / (1 + (shift - 1) * first)
        return dataclasses.replace(self, shift=shift, least=least)

    def visit(self, steps: int) -> FlowSchedule:
        """The schedule of a rule that calls the denoiser once in each interval."""
        check_steps(steps, self.most_steps)
        grid = self._cut(steps)
        return FlowSchedule(self.unit * grid[:-1], grid)

    def visit_twice(self, steps: int) -> FlowSchedule:
        """The schedule of a rule that calls at both ends of each interval.

        Where ``steps`` is odd, the last interval has one call alone.
        """
        check_steps(steps, self.most_steps)
        grid = self._cut((steps + 1) // 2)
        return FlowSchedule(self.unit * grid[(np.arange(steps) + 1) // 2], grid)

    def _cut(self, intervals: int) -> Table:
        """The times where intervals begin and end."""
        noise = np.linspace(1, 0, intervals + 1)
        if self.least:
            noise[:-1] = np.linspace(1, self.least, intervals)
        shifted = self.shift * noise / (1 + (self.shift - 1) * noise)
        shifted[0] = 1  # which rounding may miss, and what is beyond it has no power
        return shifted if self.data_at == 0 else 1 - shifted
