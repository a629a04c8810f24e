"""The largest absolute value: nothing is ever clipped."""

from __future__ import annotations

from ..histogram import Histogram


def minmax(histogram: Histogram) -> float:
    return histogram.amax
