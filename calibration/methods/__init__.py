"""How a histogram of absolute values becomes the largest one that int8 can hold."""

from __future__ import annotations

from ... import one_of
from ..histogram import Histogram
from .entropy import entropy
from .minmax import minmax
from .mse import mse
from .percentile import percentile

METHODS = {"minmax": minmax, "percentile": percentile, "entropy": entropy, "mse": mse}


def find_threshold(method: str, histogram: Histogram) -> float:
    """The absolute value that becomes 127.

    Raises:
        OptionError: There is no such method; the message says which there are.
    """
    if method not in METHODS:
        raise one_of("method", method, METHODS)
    return METHODS[method](histogram)
