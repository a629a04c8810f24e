"""How much longer a flow's run stays at the noise, by how large the image is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .... import OptionError
from ...said import shortly
from ..asked import a_number

DYNAMIC, EXPONENTIAL, LINEAR = "dynamic", "exponential", "linear"
MOST_SHIFT = 1000.0
LEAST_SHIFT = 1 / MOST_SHIFT  # of far less, times are lost to rounding
REMEDY = (
    f"Choose a number from {LEAST_SHIFT:g} to {MOST_SHIFT:g}, or {DYNAMIC}, which goes by the "
    f"image's size; {DYNAMIC}:0.5:1.15 says for which mu"
)


@dataclass(frozen=True)
class DynamicShift:
    """A shift that grows with the image, by diffusers' ``use_dynamic_shifting``.

    Its ``mu`` is on the line through two sizes, as Flux's ``calculate_shift`` draws it.

    Attributes:
        base: Of the mu at ``base_tokens``.
        most: Of the mu at ``most_tokens``.
        base_tokens: Of a small image.
        most_tokens: Of a large one; another number.
        kind: ``exponential``, whose shift is ``exp(mu)``, or ``linear``, whose shift is ``mu``.
    """

    base: float = 0.5
    most: float = 1.15
    base_tokens: int = 256
    most_tokens: int = 4096
    kind: str = EXPONENTIAL

    def of(self, tokens: int) -> float:
        """The shift of an image of so many tokens, as `LinearFlow` has it.

        Raises:
            OptionError: There is none in the range.
        """
        slope = (self.most - self.base) / (self.most_tokens - self.base_tokens)
        mu = self.base + slope * (tokens - self.base_tokens)
        shift = math.exp(min(mu, 700.0)) if self.kind == EXPONENTIAL else mu
        if not LEAST_SHIFT <= shift <= MOST_SHIFT:
            raise OptionError(f"The dynamic shift of {tokens} tokens is {shift:g}", REMEDY)
        return shift


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
    try:
        return float(said)
    except ValueError:
        return math.nan
