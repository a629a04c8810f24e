"""A guidance interval: the part of a run in which it is guided, in the model's time or in sigma."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .... import OptionError
from ...said import shortly
from ..asked import read_number
from ..schedule import Table, Training, Visits

SIGMA = "sigma"
EXAMPLES = (
    "Give LOW:HIGH in the model's own time, such as 0:0.7 for a flow and 200:800 for timesteps, or "
    f"{SIGMA}:0.28:5.42"
)
ROUNDING = 1e-9  # of the model's whole time: an end that a time meets but for rounding


@dataclass(frozen=True)
class Interval:
    """From where to where a run is guided.

    In the model's own time, as the denoiser is fed it, both ends are inside, as REPA has them;
    LightningDiT's ``cfg_interval_start`` is the low end. In sigma, the noise over the signal, the
    low end is outside and the high end inside (Kynkäänniemi et al., 2024, section 3).

    Attributes:
        low: Where it begins.
        high: Where it ends, at least ``low``.
        in_sigma: Whether both are sigmas.
    """

    low: float
    high: float
    in_sigma: bool = False

    @classmethod
    def parse(cls, text: object) -> Interval:
        """Read ``LOW:HIGH`` or ``sigma:LOW:HIGH``.

        Raises:
            OptionError: It is something else.
        """
        parts = text.split(":") if isinstance(text, str) else []
        in_sigma = len(parts) == 3 and parts[0] == SIGMA
        ends = parts[1:] if in_sigma else parts
        numbers = [read_number(end) for end in ends]
        if len(numbers) != 2 or not all(map(math.isfinite, numbers)):
            raise OptionError(f"The guidance interval is {shortly(text)}", EXAMPLES)
        interval = cls(numbers[0], numbers[1], in_sigma)
        if not 0 <= interval.low <= interval.high:
            raise OptionError(f"The guidance interval {text} is not from low to high", EXAMPLES)
        return interval

    def __str__(self) -> str:
        return f"{SIGMA}:" * self.in_sigma + f"{self.low!r}:{self.high!r}"

    def holds(self, visits: Visits, training: Training) -> list[bool]:
        """Of each step of a run, whether it is guided.

        Raises:
            OptionError: None is.
        """
        if self.in_sigma:
            where = _sigmas(visits)
            inside = (where > self.low * (1 + ROUNDING)) & (where <= self.high * (1 + ROUNDING))
        else:
            where, slack = beginnings(visits), ROUNDING * training.last_timestep
            inside = (where >= self.low - slack) & (where <= self.high + slack)
        if not inside.any():
            raise OptionError(
                f"The guidance interval {self} holds no step of the run, which visits "
                f"{where.min():g} to {where.max():g}",
                _in_range(where, in_sigma=self.in_sigma),
            )
        return [bool(step) for step in inside]


def _in_range(where: Table, *, in_sigma: bool) -> str:
    """The remedy with the middle of a run as its example; the sigma of noise alone is infinite."""
    finite = where[np.isfinite(where)]
    if not finite.size:
        return EXAMPLES
    low = 0.99 * np.quantile(finite, 0.25, method="lower")  # so that rounding loses no step
    high = 1.01 * np.quantile(finite, 0.75, method="higher")
    prefix = f"{SIGMA}:" if in_sigma else ""
    return f"Give LOW:HIGH in that range, such as {prefix}{low:.4g}:{high:.4g}"


def beginnings(visits: Visits) -> Table:
    """The time that decides for each step: a rule that calls twice in an interval decides once."""
    return np.asarray(visits.timesteps, dtype=np.float64)[_deciding(visits)]


def _deciding(visits: Visits) -> list[int]:
    """The step that decides for each."""
    return [step // 2 * 2 if visits.calls_twice else step for step in range(visits.steps)]


def _sigmas(visits: Visits) -> Table:
    """The noise over the signal at the step that decides for each."""
    signal, noise = np.array([visits.amplitudes(step) for step in _deciding(visits)]).T
    with np.errstate(divide="ignore"):  # where no signal is left it is infinite
        sigmas: Table = noise / signal
    return sigmas
