"""Noise schedules: how much of the image is left at each training timestep."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import OptionError

Table = npt.NDArray[np.float64]
Timesteps = npt.NDArray[np.int64]


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
class LinearBetas:
    """The noise that a model was trained with: betas rise linearly over the timesteps.

    Attributes:
        train_steps: Timesteps in training.
        beta_start: Beta of timestep 0, in (0, 1).
        beta_end: Beta of the last timestep, in (0, 1).
    """

    train_steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02

    def alpha_bar(self) -> Table:
        """float64 [train_steps]: the product of (1 - beta) up to each timestep."""
        betas = np.linspace(self.beta_start, self.beta_end, self.train_steps, dtype=np.float64)
        return np.cumprod(1.0 - betas, dtype=np.float64)

    def visit(self, timesteps: Timesteps) -> Schedule:
        """The schedule of a run that visits ``timesteps``, given in falling order."""
        return Schedule(timesteps, np.append(self.alpha_bar()[timesteps], 1.0))


def linspace_timesteps(steps: int, train_steps: int) -> Timesteps:
    """``steps`` timesteps from the last to 0, rounded half to even: DiT's respacing.

    25 of 1000: 999, 957, ..., 83, 42, 0.
    """
    check_steps(steps, train_steps)
    if steps == 1:
        return np.array([train_steps - 1], dtype=np.int64)
    stride = (train_steps - 1) / (steps - 1)
    return np.array([round(stride * k) for k in reversed(range(steps))], dtype=np.int64)


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


def check_steps(steps: int, train_steps: int) -> None:
    if not 1 <= steps <= train_steps:
        raise OptionError(
            f"{steps} sampling steps were asked for",
            f"Choose 1 to {train_steps} steps: the model was trained with {train_steps}",
        )
