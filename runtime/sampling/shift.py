"""What ``--shift`` says: how much longer a flow's run stays at the noise."""

from __future__ import annotations

import math

from ... import OptionError
from ..said import shortly
from .asked import a_number, read_number
from .schedule.shift import DYNAMIC, LEAST_SHIFT, MOST_SHIFT, REMEDY, DynamicShift


def read_shift(said: object) -> float | DynamicShift:
    """What ``--shift`` says: a number, or ``dynamic``, with or without ``:BASE:MAX``.

    Raises:
        OptionError: It is something else.
    """
    name, *ends = said.split(":") if isinstance(said, str) else ("",)
    numbers = [_number(end) for end in ends] if name == DYNAMIC else [_number(said)]
    if name != DYNAMIC and LEAST_SHIFT <= numbers[0] <= MOST_SHIFT:
        return numbers[0]
    if name == DYNAMIC and not numbers:
        return DynamicShift()
    if name == DYNAMIC and len(numbers) == 2 and all(map(math.isfinite, numbers)):
        return DynamicShift(numbers[0], numbers[1])
    raise OptionError(f"The shift is {shortly(said)}", REMEDY)


def _number(said: object) -> float:
    """A number, or one that is in no range."""
    if not isinstance(said, str):
        return a_number(said, "The shift", f"a number above 0, or {DYNAMIC}")
    return read_number(said)
