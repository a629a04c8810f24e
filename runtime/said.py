"""A value that is refused, as a message says it: short, in one line, whatever it is."""

from __future__ import annotations

import math
from typing import SupportsFloat

MOST = 60  # letters
ENORMOUS = 10**40  # Python refuses to write some larger ones


def shortly(value: object) -> str:
    """As Python writes it, cut where it is long."""
    if isinstance(value, int) and abs(value) >= ENORMOUS:
        return "an enormous number"
    said = " ".join(repr(value).split())
    return said if len(said) <= MOST else f"{said[:MOST]}…"


def reason(error: BaseException) -> str:
    """What an error says in its first line; what it is where it says nothing."""
    first, *_ = str(error).splitlines() or ("",)
    return first or type(error).__name__


def is_finite(value: SupportsFloat) -> bool:
    """As `math.isfinite`; a whole number that no float holds is not."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
