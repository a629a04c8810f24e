"""Which timesteps of training a run visits: the ways of Lin et al. (2024, table 2), and DiT's own.

The names are diffusers' ``timestep_spacing``; ``official`` is what DiT's own sampling visits.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from .... import OptionError, one_of
from . import Table, Timesteps, check_steps

LEADING, LINSPACE, TRAILING, OFFICIAL = "leading", "linspace", "trailing", "official"
SPACINGS = (LEADING, LINSPACE, TRAILING, OFFICIAL)


@dataclass(frozen=True)
class Spacing:
    """How a sampler's timesteps are chosen; a single one is the last, where only noise is.

    Attributes:
        name: One of `SPACINGS`.
        offset: How far above a multiple of the stride ``leading`` visits.
        open_ended: Whether the cleanest of ``steps + 1`` is left out, as DPM-Solver does.
        whole: Whether ``linspace`` is rounded to whole timesteps.
    """

    name: str
    offset: int = 0
    open_ended: bool = False
    whole: bool = True

    def timesteps(self, steps: int, train_steps: int) -> Timesteps | Table:
        """``steps`` of ``train_steps``, in falling order.

        Raises:
            OptionError: The name is none of `SPACINGS`, or the steps do not fit.
        """
        check_steps(steps, train_steps)
        if self.name in SPACINGS and steps == 1:
            return np.array([train_steps - 1], dtype=np.int64)
        if self.name == OFFICIAL:
            return official_timesteps(steps, train_steps)
        if self.name == TRAILING:
            return trailing_timesteps(steps, train_steps)
        if self.name not in SPACINGS:
            raise one_of("spacing", self.name, SPACINGS)
        points = steps + 1 if self.open_ended else steps
        if self.name == LEADING:
            return self._leading(points, train_steps)[:steps]
        spaced = np.linspace(0, train_steps - 1, points)[::-1][:steps]
        if self.whole:
            return spaced.round().astype(np.int64)
        return spaced.astype(np.float32).astype(np.float64)  # as a denoiser is fed them

    def _leading(self, points: int, train_steps: int) -> Timesteps:
        found = leading_timesteps(points, train_steps) + self.offset
        if found[0] >= train_steps or (points > 1 and found[0] == found[1]):
            raise OptionError(
                f"{LEADING} timesteps of {train_steps} with an offset of {self.offset} do not go "
                f"into so many steps",
                f"Choose fewer steps, or the spacing {TRAILING}",
            )
        return found


def official_timesteps(steps: int, train_steps: int) -> Timesteps:
    """``steps`` timesteps from the last to 0: official DiT's respacing, to the timestep.

    Its stride accumulates in float64 and each sum is rounded half to even (``space_timesteps`` of
    ADM's respace.py). 25 of 1000: 999, 957, ..., 42, 0.
    """
    stride = (train_steps - 1) / (steps - 1)
    sums = itertools.accumulate([stride] * (steps - 1), initial=0.0)
    return np.array([round(total) for total in sums], dtype=np.int64)[::-1].copy()


def leading_timesteps(steps: int, train_steps: int) -> Timesteps:
    """``steps`` timesteps at a whole stride, down to 0: DDIM's. 50 of 1000: 980, 960, ..., 0."""
    return np.arange(steps, dtype=np.int64)[::-1] * (train_steps // steps)


def trailing_timesteps(steps: int, train_steps: int) -> Timesteps:
    """``steps`` timesteps from the last down, none of them 0. 50 of 1000: 999, 979, ..., 19."""
    spaced = np.arange(train_steps, 0, -train_steps / steps)[:steps]
    return spaced.round().astype(np.int64) - 1
