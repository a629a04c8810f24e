"""The threshold with the least mean squared error of rounding and clipping together."""

from __future__ import annotations

import numpy as np

from ..histogram import Histogram

CANDIDATES = np.linspace(0.1, 1.0, 181)  # of the largest absolute value
LEVELS = 127


def mse(histogram: Histogram) -> float:
    used = histogram.counts.nonzero()[0]
    values, counts = histogram.centres[used], histogram.counts[used]
    errors = [_error(values, counts, share * histogram.amax) for share in CANDIDATES]
    return histogram.amax * float(CANDIDATES[np.argmin(errors)])


def _error(values: np.ndarray, counts: np.ndarray, threshold: float) -> float:
    scale = threshold / LEVELS
    if scale == 0.0:
        return 0.0
    rounded = np.minimum(np.round(values / scale), LEVELS) * scale
    return float(counts @ (values - rounded) ** 2)
