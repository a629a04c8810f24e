"""How a guidance scale grows from the noise, where it is 1, to the image, where it is whole."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .... import OptionError
from ...said import shortly
from ..asked import read_number
from ..schedule import Table, Training, Visits
from .interval import beginnings

CONSTANT, LINEAR, POWER_COSINE = "constant", "linear", "power-cosine"
POWER, MOST_POWER = 4.0, 100.0  # MDT's own
REMEDY = f"Choose {CONSTANT}, {LINEAR}, {POWER_COSINE} or {POWER_COSINE}:POWER, such as 4"


@dataclass(frozen=True)
class CfgSchedule:
    """The share of a guidance scale over the run: ``1 + (scale - 1) * share``.

    Where a share ``u`` of the way to noise is left (a timestep over the training steps, a flow's
    share of noise), the share is ``1 - u`` for ``linear`` (Muse, Chang et al., 2023, section 2.7)
    and ``(1 - cos(pi * (1 - u) ** power)) / 2`` for ``power-cosine`` (MDT, Gao et al., 2023,
    ``forward_with_cfg``; FiT took it from there).

    Attributes:
        name: ``constant``, ``linear`` or ``power-cosine``.
        power: Of the last.
    """

    name: str = CONSTANT
    power: float = POWER

    @classmethod
    def parse(cls, text: object) -> CfgSchedule:
        """Read a name, with a colon and a power where it has one.

        Raises:
            OptionError: It is something else.
        """
        name, colon, power = text.partition(":") if isinstance(text, str) else ("", "", "")
        if name in (CONSTANT, LINEAR, POWER_COSINE) and not colon:
            return cls(name)
        found = read_number(power) if name == POWER_COSINE else math.nan
        if not 0 < found <= MOST_POWER:
            raise OptionError(f"The schedule of the guidance scale is {shortly(text)}", REMEDY)
        return cls(name, found)

    def __str__(self) -> str:
        return f"{self.name}:{self.power!r}" if self.name == POWER_COSINE else self.name

    def scales(self, scale: float, visits: Visits, training: Training) -> Table:
        """float64 [steps]: the guidance scale of each step."""
        gone = np.clip(1 - training.noise_level(beginnings(visits)), 0, 1)
        share = gone if self.name == LINEAR else (1 - np.cos(np.pi * gone**self.power)) / 2
        if self.name == CONSTANT:
            share = np.ones_like(gone)
        scales: Table = 1 + (scale - 1) * share
        return scales
