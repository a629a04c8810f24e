"""How a histogram of absolute values becomes the largest one that a precision is to hold."""

from __future__ import annotations

from ... import one_of
from ...runtime.bundle.precision import Precision
from ..observed.histogram import Histogram
from .entropy import entropy
from .minmax import minmax
from .mse import mse
from .percentile import percentile

METHODS = {"minmax": minmax, "percentile": percentile, "entropy": entropy, "mse": mse}


def find_threshold(method: str, histogram: Histogram, precision: Precision) -> float:
    """The absolute value that becomes the precision's largest number.

    Raises:
        OptionError: There is no such method; the message says which there are.
    """
    if method not in METHODS:
        raise one_of("method", method, METHODS)
    return METHODS[method](histogram, precision)
