"""The threshold that loses the least information: the smallest Kullback-Leibler divergence.

The search is ONNX Runtime's, which is TensorRT's calibrator of old (Migacz, 2017).
"""

from __future__ import annotations

import numpy as np

from ...runtime.bundle.precision import Precision
from ..observed.histogram import Histogram

QUANTIZED_BINS = 128
SEARCHED_BINS = 2048  # of both signs: the search takes the square of it


def entropy(histogram: Histogram, precision: Precision) -> float:
    from onnxruntime.quantization.calibrate import HistogramCollector

    if not histogram.samples or histogram.amax == 0.0:
        return histogram.amax
    edge = np.float32(histogram.centres[-1] + 0.5 * 2.0**histogram.exponent)
    counts = histogram.counts.reshape(SEARCHED_BINS // 2, -1).sum(axis=1)
    mirrored = np.concatenate([counts[::-1], counts])
    edges = np.linspace(-edge, edge, SEARCHED_BINS + 1, dtype=np.float32)
    search = HistogramCollector("entropy", True, SEARCHED_BINS, QUANTIZED_BINS, None, None)
    low, high = np.float32(-histogram.amax), np.float32(histogram.amax)
    found = search.get_entropy_threshold((mirrored, edges, low, high, edge), QUANTIZED_BINS)
    return min(histogram.amax, float(found[1]))
