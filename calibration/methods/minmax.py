"""The largest absolute value: nothing is ever clipped."""

from __future__ import annotations

from ...runtime.bundle.precision import Precision
from ..observed.histogram import Histogram


def minmax(histogram: Histogram, precision: Precision) -> float:
    return histogram.amax
