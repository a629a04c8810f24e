"""A series of measured times in three numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """The middle of a series, and how far it goes to both sides.

    Attributes:
        median: In the unit of the series.
        p10: A tenth of the series is below it.
        p90: A tenth of the series is above it.
    """

    median: float
    p10: float
    p90: float

    @property
    def ratio(self) -> float:
        """``p90 / p10``: 1 where every value is the same."""
        return self.p90 / self.p10


def spread(values: Iterable[float]) -> Spread:
    """The spread of a series of at least one value, with linear interpolation between values."""
    p10, median, p90 = np.percentile(list(values), [10, 50, 90]).tolist()
    return Spread(median, p10, p90)
