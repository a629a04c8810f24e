"""What a model was trained on the way from noise to data, and what a run visits of it.

Two kinds: `Betas` counts timesteps and says how much of the image is left at each, and a
`LinearFlow` is the straight line between noise and image, in a time from 0 to 1. Both have the
same properties, so nobody else needs to know which one a model has.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ... import OptionError

Table = npt.NDArray[np.float64]
Timesteps = npt.NDArray[np.int64]
LINEAR, SCALED_LINEAR, SQUARED_COSINE = "linear", "scaled_linear", "squaredcos_cap_v2"
BETA_RULES = (LINEAR, SCALED_LINEAR, SQUARED_COSINE)
MOST_BETA = 0.999  # of the squared cosine, as the paper cuts it
MOST_FLOW_STEPS = 10_000  # of a run; far beyond where a finer grid changes anything


class Visits(Protocol):
    """What a run asks the denoiser at, noisiest first, whatever its rule."""

    @property
    def timesteps(self) -> Timesteps | Table:
        """[steps], what the denoiser is fed: training timesteps, or times of a flow."""

    @property
    def steps(self) -> int:
        """Denoiser calls."""


@dataclass(frozen=True)
class Schedule:
    """The timesteps that a run visits, noisiest first.

    Attributes:
        timesteps: int64 [steps], training timesteps in falling order.
        alpha_bar: float64 [steps + 1], the share of signal (not of amplitude) left at each of
            them, in (0, 1]. The last entry is 1: the clean image.
    """

    timesteps: Timesteps
    alpha_bar: Table

    @property
    def steps(self) -> int:
        return len(self.timesteps)


@dataclass(frozen=True)
class FlowSchedule:
    """The times that a run along a flow visits, from noise to data.

    Attributes:
        timesteps: float64 [steps], the time of each denoiser call.
        grid: float64 [intervals + 1], where the intervals begin and end. A rule that calls twice
            in an interval has fewer intervals than steps.
    """

    timesteps: Table
    grid: Table

    @property
    def steps(self) -> int:
        return len(self.timesteps)


class Training(Protocol):
    """What a model was trained on, as far as a run must know it."""

    @property
    def called(self) -> str:
        """In users' words."""

    @property
    def last_timestep(self) -> int:
        """The largest that the denoiser may be fed; the smallest is 0."""

    @property
    def timestep_dtype(self) -> str:
        """Of what a run visits: ``int64``, or ``float64`` for times of a flow."""

    @property
    def most_steps(self) -> int:
        """The steps that a run may have."""

    def noise_level(self, timesteps: npt.NDArray[np.int64] | Table) -> Table:
        """float64 in [0, 1]: how far each timestep is from the data, of the whole way."""

    def spread(self, count: int) -> Timesteps | Table:
        """``count`` timesteps from 0 to the last, evenly."""


@dataclass(frozen=True)
class Betas:
    """The noise that a model was trained with, as diffusers names it.

    Attributes:
        train_steps: Timesteps in training.
        beta_start: Beta of timestep 0, in (0, 1).
        beta_end: Beta of the last timestep, in (0, 1).
        rule: How they rise: ``linear``; ``scaled_linear``, linear in their square roots (latent
            diffusion); or ``squaredcos_cap_v2``, of Nichol and Dhariwal (2021, eq. 17), which
            has no start and end.
        trained: The betas themselves, [train_steps], where a model brings its own; else empty.
    """

    train_steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    rule: str = LINEAR
    trained: tuple[float, ...] = ()

    @property
    def last_timestep(self) -> int:
        return self.train_steps - 1

    @property
    def timestep_dtype(self) -> str:
        return "int64"

    @property
    def most_steps(self) -> int:
        return self.train_steps

    def noise_level(self, timesteps: npt.NDArray[np.int64] | Table) -> Table:
        return timesteps / self.train_steps

    def spread(self, count: int) -> Timesteps:
        return np.linspace(0, self.last_timestep, count).round().astype(np.int64)

    def alpha_bar(self) -> Table:
        """float64 [train_steps]: the product of (1 - beta) up to each timestep."""
        return np.cumprod(1.0 - self.betas(), dtype=np.float64)

    @property
    def called(self) -> str:
        """In users' words."""
        if self.trained:
            return f"{self.train_steps} timesteps, betas of the model's own"
        ends = f" {self.beta_start:g} to {self.beta_end:g}" if self.rule != SQUARED_COSINE else ""
        return f"{self.train_steps} timesteps, betas {self.rule}{ends}"

    def betas(self) -> Table:
        """float64 [train_steps], each in (0, 1)."""
        if self.trained:
            return np.array(self.trained, dtype=np.float64)
        if self.rule == SQUARED_COSINE:
            return _squared_cosine(self.train_steps)
        power = 0.5 if self.rule == SCALED_LINEAR else 1.0
        ends = (self.beta_start**power, self.beta_end**power)
        betas: Table = np.linspace(*ends, self.train_steps, dtype=np.float64) ** (1 / power)
        return betas

    def visit(self, timesteps: Timesteps) -> Schedule:
        """The schedule of a run that visits ``timesteps``, given in falling order."""
        return Schedule(timesteps, np.append(self.alpha_bar()[timesteps], 1.0))


@dataclass(frozen=True)
class LinearFlow:
    """The straight line from noise to data: ``latent = share * data + (1 - share) * noise``.

    The velocity that a model predicts is the latent's derivative by its own time, whichever way
    that runs.

    Attributes:
        data_at: The time of the data, 1 (SiT) or 0 (REPA); the noise is at the other end.
    """

    data_at: int = 0

    @property
    def called(self) -> str:
        """In users' words."""
        return f"the straight line from noise to data, the data at {self.data_at}"

    @property
    def last_timestep(self) -> int:
        return 1

    @property
    def timestep_dtype(self) -> str:
        return "float64"

    @property
    def most_steps(self) -> int:
        return MOST_FLOW_STEPS

    def noise_level(self, timesteps: npt.NDArray[np.int64] | Table) -> Table:
        return np.abs(np.asarray(timesteps, dtype=np.float64) - self.data_at)

    def spread(self, count: int) -> Table:
        return np.linspace(0, 1, count)

    def visit(self, steps: int) -> FlowSchedule:
        """The schedule of a rule that calls the denoiser once in each interval."""
        check_steps(steps, self.most_steps)
        grid = self._cut(steps)
        return FlowSchedule(grid[:-1], grid)

    def visit_twice(self, steps: int) -> FlowSchedule:
        """The schedule of a rule that calls at both ends of each interval.

        Where ``steps`` is odd, the last interval has one call alone.
        """
        check_steps(steps, self.most_steps)
        grid = self._cut((steps + 1) // 2)
        return FlowSchedule(grid[(np.arange(steps) + 1) // 2], grid)

    def _cut(self, intervals: int) -> Table:
        return np.linspace(1 - self.data_at, self.data_at, intervals + 1)


def _squared_cosine(train_steps: int) -> Table:
    left = np.cos((np.arange(train_steps + 1) / train_steps + 0.008) / 1.008 * np.pi / 2) ** 2
    betas: Table = np.minimum(1 - left[1:] / left[:-1], MOST_BETA)
    return betas


def linspace_timesteps(steps: int, train_steps: int) -> Timesteps:
    """``steps`` timesteps from the last to 0: official DiT's respacing, to the timestep.

    Its stride accumulates in float64 and each sum is rounded half to even (``space_timesteps`` of
    ADM's respace.py). 25 of 1000: 999, 957, ..., 42, 0. A single one is the last, not ADM's 0,
    where there is no noise to take away.
    """
    check_steps(steps, train_steps)
    if steps == 1:
        return np.array([train_steps - 1], dtype=np.int64)
    stride = (train_steps - 1) / (steps - 1)
    sums = itertools.accumulate([stride] * (steps - 1), initial=0.0)
    return np.array([round(total) for total in sums], dtype=np.int64)[::-1].copy()


def leading_timesteps(steps: int, train_steps: int) -> Timesteps:
    """``steps`` timesteps at a whole stride, down to 0: DDIM's. 50 of 1000: 980, 960, ..., 0."""
    check_steps(steps, train_steps)
    stride = train_steps // steps
    return np.arange(steps, dtype=np.int64)[::-1] * stride


def open_timesteps(steps: int, train_steps: int) -> Timesteps:
    """``steps`` of ``steps + 1`` evenly spaced timesteps, without 0: DPM-Solver's."""
    check_steps(steps, train_steps)
    spaced = np.linspace(0, train_steps - 1, steps + 1).round().astype(np.int64)
    return spaced[:0:-1].copy()


def check_steps(steps: int, most: int) -> None:
    if not 1 <= steps <= most:
        reason = "" if most == MOST_FLOW_STEPS else f": the model was trained with {most}"
        raise OptionError(
            f"{steps} sampling steps were asked for", f"Choose 1 to {most} steps{reason}"
        )
