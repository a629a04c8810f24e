"""What a model was trained on the way from noise to data, and what a run visits of it.

Two kinds: `Betas` (``betas.py``) counts timesteps and says how much of the image is left at each,
and a `LinearFlow` (``flow.py``) is the straight line between noise and image. Both have the same
properties, so nobody else needs to know which one a model has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .... import OptionError

Table = npt.NDArray[np.float64]
Timesteps = npt.NDArray[np.int64]
MOST_FLOW_STEPS = 10_000  # of a run; far beyond where a finer grid changes anything


class Visits(Protocol):
    """What a run asks the denoiser at, noisiest first, whatever its rule."""

    @property
    def timesteps(self) -> Timesteps | Table:
        """[steps], what the denoiser is fed: training timesteps, or times of a flow."""

    @property
    def steps(self) -> int:
        """Denoiser calls."""

    @property
    def start(self) -> float:
        """What a run's first noise is multiplied with, above 0."""

    @property
    def calls_twice(self) -> bool:
        """Whether every other step only corrects the one before, from the end of its interval."""

    def amplitudes(self, index: int) -> tuple[float, float]:
        """Of image and noise, in a latent at a step's timestep."""


@dataclass(frozen=True)
class Schedule:
    """The timesteps that a run visits, noisiest first.

    Attributes:
        timesteps: int64 [steps], training timesteps in falling order; float64 where a rule visits
            some between whole ones.
        alpha_bar: float64 [steps], the share of signal (not of amplitude) left at each of them,
            in [0, 1].
        after: float64 [steps], the share that each step ends at: that of the timestep that is
            visited next, but where diffusers' rule goes to another; 1 is the clean image.
        start: What the first noise is multiplied with.
    """

    timesteps: Timesteps | Table
    alpha_bar: Table
    after: Table
    start: float = 1.0

    @property
    def steps(self) -> int:
        return len(self.timesteps)

    @property
    def calls_twice(self) -> bool:
        return False

    def shares(self, index: int) -> tuple[float, float]:
        """Of signal, where a step begins and where it ends.

        Python's floats: they leave float32 arrays float32 under every NumPy's promotion rules.
        """
        return float(self.alpha_bar[index]), float(self.after[index])

    def amplitudes(self, index: int) -> tuple[float, float]:
        share = float(self.alpha_bar[index])
        return share**0.5, (1 - share) ** 0.5

    def last(self, strength: float) -> Schedule:
        """The last steps, so many of all as `count_last` says."""
        first = self.steps - count_last(self.steps, strength)
        if not first:
            return self
        return Schedule(self.timesteps[first:], self.alpha_bar[first:], self.after[first:])


@dataclass(frozen=True)
class FlowSchedule:
    """The times that a run along a flow visits, from noise to data.

    Attributes:
        timesteps: float64 [steps], the time of each denoiser call, as the denoiser is fed it.
        grid: float64 [intervals + 1], where the intervals begin and end, in times from 0 to 1. A
            rule that calls twice in an interval has fewer intervals than steps.
    """

    timesteps: Table
    grid: Table

    @property
    def steps(self) -> int:
        return len(self.timesteps)

    @property
    def start(self) -> float:
        return 1.0

    @property
    def calls_twice(self) -> bool:
        return self.steps > len(self.grid) - 1

    def amplitudes(self, index: int) -> tuple[float, float]:
        place = (index + 1) // 2 if self.calls_twice else index
        noise = abs(float(self.grid[place] - self.grid[-1]))
        return 1 - noise, noise

    def last(self, strength: float) -> FlowSchedule:
        """The last intervals with all of their steps, at least one.

        So many as diffusers' pipelines of flows take, which round the count up.
        """
        intervals = len(self.grid) - 1
        first = min(int(intervals - intervals * strength), intervals - 1)
        skipped = 2 * first if self.calls_twice else first
        return FlowSchedule(self.timesteps[skipped:], self.grid[first:])


def count_last(steps: int, strength: float) -> int:
    """How many of a run's steps are taken where it begins with an image, rounded down.

    It is the count of diffusers' pipelines of models with timesteps.

    Raises:
        OptionError: None of them.
    """
    count = min(int(steps * strength), steps)
    if count < 1:
        raise OptionError(
            f"A strength of {strength:g} leaves none of {steps} steps",
            f"Choose a strength of at least {math.ceil(1000 / steps) / 1000:g}, or more steps",
        )
    return count


class Training(Protocol):
    """What a model was trained on, as far as a run must know it."""

    @property
    def called(self) -> str:
        """In users' words."""

    @property
    def last_timestep(self) -> float:
        """The largest that the denoiser may be fed; the smallest is 0."""

    @property
    def most_steps(self) -> int:
        """The steps that a run may have."""

    def noise_level(self, timesteps: Timesteps | Table) -> Table:
        """float64 in [0, 1]: how far each timestep is from the data, of the whole way."""

    def spread(self, count: int) -> Timesteps | Table:
        """``count`` timesteps from 0 to the last, evenly."""


def check_steps(steps: int, most: int) -> None:
    if not 1 <= steps <= most:
        reason = "" if most == MOST_FLOW_STEPS else f": the model was trained with {most}"
        raise OptionError(
            f"{steps} sampling steps were asked for", f"Choose 1 to {most} steps{reason}"
        )
