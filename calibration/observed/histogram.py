"""A histogram of absolute values that grows without losing exactness."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BINS = 4096
SMALLEST = -126  # exponent of the width of an empty histogram's bins


@dataclass(frozen=True)
class Histogram:
    """How often each absolute value came.

    A bin's width is a power of two, so a histogram that must reach further adds up pairs of bins,
    and any two histograms of the same values are equal, whatever the order that they came in.

    Attributes:
        counts: int64 [bin].
        exponent: A bin is ``2 ** exponent`` wide.
        amax: The largest absolute value, to the bit.
    """

    counts: npt.NDArray[np.int64]
    exponent: int
    amax: float

    @classmethod
    def empty(cls) -> Histogram:
        return cls(np.zeros(BINS, np.int64), SMALLEST, 0.0)

    @property
    def samples(self) -> int:
        return int(self.counts.sum())

    @property
    def centres(self) -> npt.NDArray[np.float64]:
        """The absolute value in the middle of each bin."""
        return np.linspace(0.5, BINS - 0.5, BINS) * np.float64(2.0**self.exponent)

    def add(self, values: npt.NDArray[np.floating]) -> Histogram:
        """The histogram with ``values`` counted too."""
        absolute = np.abs(values).ravel()
        amax = max(self.amax, float(absolute.max(initial=0.0)))
        reached = self._reach(amax)
        bins = (absolute * np.float32(2.0**-reached.exponent)).astype(np.int64)
        counts = reached.counts + np.bincount(bins, minlength=BINS)
        return Histogram(counts, reached.exponent, amax)

    def share_above(self, threshold: float) -> float:
        """The share of values in bins that lie wholly above ``threshold``, in [0, 1]."""
        if threshold >= self.amax:
            return 0.0
        first = math.ceil(threshold * 2.0**-self.exponent)
        return float(self.counts[min(first, BINS) :].sum() / max(1, self.samples))

    def _reach(self, amax: float) -> Histogram:
        """The same counts in bins wide enough for ``amax``."""
        if amax == 0.0:
            return self
        needed = math.frexp(amax / BINS)[1]  # amax < BINS * 2 ** needed
        if needed <= self.exponent:
            return self
        if not self.samples:
            return Histogram(self.counts, needed, amax)
        counts, exponent = self.counts, self.exponent
        while exponent < needed and counts[1:].any():
            pairs = counts.reshape(-1, 2).sum(axis=1)
            counts = np.concatenate([pairs, np.zeros_like(pairs)])
            exponent += 1
        return Histogram(counts, needed, amax)
