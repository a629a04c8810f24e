"""How much longer a flow's run stays at the noise, by how large the image is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .... import OptionError

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
