"""The absolute value that 99.99 % of all values stay below."""

from __future__ import annotations

import numpy as np

from ...runtime.bundle.precision import Precision
from ..observed.histogram import Histogram

SHARE = 0.9999


def percentile(histogram: Histogram, precision: Precision) -> float:
    if not histogram.samples:
        return histogram.amax
    reached = np.cumsum(histogram.counts) >= SHARE * histogram.samples
    return min(histogram.amax, float((np.argmax(reached) + 1) * 2.0**histogram.exponent))
