"""A plan of calls: at which steps of a run the denoiser is called, and what stands in elsewhere."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from itertools import accumulate

LEAST_CALLS = 3  # the terms of a forecast


@dataclass(frozen=True)
class Plan:
    """Which steps of a run are forecast, and from what.

    Attributes:
        factors: Of each step: none where the denoiser is called; else those of what it said last,
            newest first.
        variances: Of each step, the learned variance that a forecast takes for it, raw in about
            [-1, 1]; empty for the middle, 0, at all of them.
    """

    factors: tuple[tuple[float, ...], ...]
    variances: tuple[float, ...] = ()

    @property
    def steps(self) -> int:
        return len(self.factors)

    @property
    def calls(self) -> int:
        return len(self.called)

    @functools.cached_property
    def called(self) -> tuple[int, ...]:
        """The steps that call the denoiser."""
        return tuple(step for step, factors in enumerate(self.factors) if not factors)

    @functools.cached_property
    def terms(self) -> int:
        """Of the predictions before, how many a forecast sums at most."""
        return max(map(len, self.factors))

    @functools.cached_property
    def held(self) -> tuple[int, ...]:
        """How many predictions are remembered before each step."""
        calls = accumulate((not factors for factors in self.factors[:-1]), initial=0)
        return tuple(min(self.terms, count) for count in calls)

    def variance(self, step: int) -> float:
        return self.variances[step] if self.variances else 0.0


def evenly(steps: int, calls: int) -> tuple[int, ...]:
    """So many of the steps, the first and the last among them."""
    return tuple(round(call * (steps - 1) / (calls - 1)) for call in range(calls))
