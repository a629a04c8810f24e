"""What a forecast is to be fitted for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from .. import OptionError
from ..runtime.sampling.asked import a_number
from ..runtime.sampling.forecast.plan import LEAST_CALLS
from ..runtime.sampling.settings import Settings

MOST_TRAJECTORIES = 1 << 20
RATIOS = (1.25, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6)  # steps for a call, of all that `--all` fits


@dataclass(frozen=True)
class Recipe:
    """What is fitted, and on how much.

    Attributes:
        settings: Of the runs, without calls.
        scales: Guidance scales whose trajectories are fitted together.
        calls: Numbers of them, each less than the steps; empty for those of a budget.
        budget_db: Where no calls are given: the median PSNR of held-out images that the fewest
            calls must keep.
        num: Trajectories that are fitted on, at most 2**20; half as many judge.
        called: The steps that call, where they are not to be chosen; then ``calls`` says how many.
    """

    settings: Settings
    scales: tuple[float, ...]
    calls: tuple[int, ...] = ()
    budget_db: float | None = None
    num: int = 32
    called: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if (self.budget_db is None) != bool(self.calls):
            raise OptionError(
                "Nothing says how many calls, or several options do",
                "Choose one of `--calls`, `--budget`, `--all` and `--router`",
            )
        if self.num < 4 * len(self.scales):
            raise OptionError(
                f"{self.num} trajectories are too few for {len(self.scales)} guidance scales",
                f"Choose at least {4 * len(self.scales)} with `--num`",
            )
        if self.num > MOST_TRAJECTORIES:
            raise OptionError(
                f"{self.num} trajectories were asked for",
                f"Choose at most {MOST_TRAJECTORIES} with `--num`",
            )
        if self.budget_db is not None:
            a_number(self.budget_db, "The budget", "a finite number of dB with `--budget`")
        for scale in self.scales:
            self.at(scale)  # refuses one that is no scale
        steps = self.settings.steps
        if steps <= LEAST_CALLS:
            raise OptionError(
                f"A run of {steps} steps has none to forecast",
                f"Choose more than {LEAST_CALLS} steps",
            )
        for calls in self.calls:
            if dataclasses.replace(self.settings, calls=calls).calls is None:
                raise OptionError(
                    f"{calls} calls are all {steps} steps, so nothing is forecast",
                    f"Choose fewer than {steps} calls",
                )

    @property
    def held_out(self) -> int:
        return self.num // 2

    def at(self, scale: float) -> Settings:
        """The runs at a guidance scale."""
        return dataclasses.replace(self.settings, cfg_scale=scale)

    def shares(self, count: int) -> list[int]:
        """``count`` trajectories shared out among the guidance scales."""
        scales = len(self.scales)
        return [count // scales + (place < count % scales) for place in range(scales)]


def all_calls(steps: int) -> tuple[int, ...]:
    """Numbers of calls from a sixth of the steps to most of them."""
    wanted: Sequence[int] = [int(steps / ratio + 0.5) for ratio in RATIOS]
    return tuple(sorted({calls for calls in wanted if LEAST_CALLS <= calls < steps}))
