"""The threshold with the least mean squared error of rounding and clipping together."""

from __future__ import annotations

import numpy as np

from ...runtime.bundle.precision import Precision
from ..observed.histogram import Histogram

CANDIDATES = np.linspace(0.1, 1.0, 181)  # of the largest absolute value


def mse(histogram: Histogram, precision: Precision) -> float:
    used = histogram.counts.nonzero()[0]
    values, counts = histogram.centres[used], histogram.counts[used]
    errors = [_error(values, counts, share * histogram.amax, precision) for share in CANDIDATES]
    return histogram.amax * float(CANDIDATES[np.argmin(errors)])


def _error(values: np.ndarray, counts: np.ndarray, threshold: float, precision: Precision) -> float:
    scale = threshold / precision.largest
    if scale == 0.0:
        return 0.0
    rounded = precision.nearest(values / scale) * scale
    return float(counts @ (values - rounded) ** 2)
