"""How images are sampled: what a user chooses of it."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from functools import partial
from typing import Any

from ... import OptionError
from ..said import shortly
from .asked import a_number, a_whole_number
from .forecast.plan import LEAST_CALLS
from .guidance.cfg_schedule import CONSTANT, CfgSchedule
from .guidance.interval import Interval
from .noise import TORCH
from .schedule.scheduler import AUTO
from .schedule.shift import DynamicShift
from .shift import read_shift

ALL = "all"  # channels
MOST_DIGITS = 9


@dataclass(frozen=True)
class Settings:
    """How images are sampled.

    Attributes:
        steps: Of a run, from 1 to the model's training steps.
        sampler: ``ddim``, ``ddpm``, ``dpmpp_2m``, ``dpmpp_2m_sde``, ``unipc``, ``unipc_3`` or
            ``euler``; ``euler``, ``heun`` or ``euler_maruyama`` for a flow; ``auto`` is what the
            model's scheduler says, else ``ddim``, or ``euler`` for a flow.
        cfg_scale: Guidance scale; 1 is none.
        eta: DDIM's share of fresh noise, in [0, 1].
        spacing: Which timesteps are visited: ``leading``, ``linspace``, ``trailing`` or
            ``official``; ``auto`` is what the model's scheduler says, else the sampler's own.
        calls: Steps that call the denoiser, from 3; the others are forecast. None for all of them,
            which as many as there are steps becomes.
        cfg_interval: Where the run is guided, ``LOW:HIGH`` in the model's own time or
            ``sigma:LOW:HIGH``; None for everywhere.
        cfg_schedule: How the guidance scale grows over the run: ``linear`` or ``power-cosine``,
            with ``:POWER``; None for not at all, which ``constant`` becomes.
        cfg_channels: How many leading channels are guided, or ``all``; None for as many as the
            model's own code guides.
        shift: How much longer a flow's run stays at the noise, above 0, or ``dynamic`` for as long
            as the image's size says; None for the model's own.
        noise: ``torch`` for what a CPU generator of PyTorch draws; None for the bundle's rule.
    """

    steps: int = 50
    sampler: str = AUTO
    cfg_scale: float = 4.0
    eta: float = 0.0
    spacing: str = AUTO
    calls: int | None = None
    cfg_interval: str | None = None
    cfg_schedule: str | None = None
    cfg_channels: int | str | None = None
    shift: float | str | None = None
    noise: str | None = None

    def __post_init__(self) -> None:
        set_field = partial(object.__setattr__, self)  # NumPy's numbers become Python's
        set_field("steps", a_whole_number(self.steps, "steps"))
        scale = a_number(self.cfg_scale, "The guidance scale", "a number of at least 0")
        set_field("cfg_scale", scale)
        set_field("eta", a_number(self.eta, "eta", "0 to 1"))
        if self.calls is not None:
            calls = a_whole_number(self.calls, "calls")
            set_field("calls", None if calls == self.steps else calls)
            self._check_calls()
        for name, value, such in (
            ("sampler", self.sampler, "ddim"),
            ("spacing", self.spacing, "trailing"),
        ):
            if not isinstance(value, str):
                raise OptionError(f"{name} is {value!r}", f"Give a name, such as '{such}'")
        if self.cfg_scale < 0:
            raise OptionError(
                f"The guidance scale is {self.cfg_scale}", "Choose a number of at least 0"
            )
        if self.noise not in (None, TORCH):
            raise OptionError(
                f"The noise is {shortly(self.noise)}", f"Choose {TORCH}, or leave it out"
            )
        if self.shift is not None:
            shift = read_shift(self.shift)
            set_field("shift", self.shift if isinstance(shift, DynamicShift) else shift)
        self._check_guidance()

    def _check_guidance(self) -> None:
        set_field = partial(object.__setattr__, self)
        if self.cfg_interval is not None:
            set_field("cfg_interval", str(Interval.parse(self.cfg_interval)))
        if self.cfg_schedule is not None:
            schedule = CfgSchedule.parse(self.cfg_schedule)
            set_field("cfg_schedule", None if schedule.name == CONSTANT else str(schedule))
        if self.cfg_channels is not None:
            set_field("cfg_channels", _channels(self.cfg_channels))
        for name, value in (
            ("interval", self.cfg_interval),
            ("schedule", self.cfg_schedule),
            ("channels", self.cfg_channels),
        ):
            if value is not None and not self.guided:
                raise OptionError(
                    f"The guidance {name} {value} was asked for, and a guidance scale of 1 is no "
                    "guidance",
                    f"Leave out the {name}, or choose another guidance scale",
                )

    def _check_calls(self) -> None:
        if self.calls is None:
            return
        if self.calls > self.steps:
            raise OptionError(
                f"{self.calls} calls were asked for in {self.steps} steps",
                f"Choose at most {self.steps} calls, or more steps",
            )
        if self.calls < LEAST_CALLS:
            raise OptionError(
                f"{self.calls} calls were asked for, and a forecast is made of {LEAST_CALLS}",
                f"Choose at least {LEAST_CALLS} calls, or fewer steps",
            )

    def as_dict(self) -> dict[str, Any]:
        """For a file: what is None is left out, as before there was such a setting."""
        return {
            name: value for name, value in dataclasses.asdict(self).items() if value is not None
        }

    @property
    def guided(self) -> bool:
        return self.cfg_scale != 1.0

    @property
    def beyond_forecasts(self) -> str:
        """What no forecast is fitted for, as an option; empty where there is nothing."""
        names = ("cfg_interval", "cfg_schedule", "cfg_channels", "shift")
        said = next((name for name in names if getattr(self, name) is not None), "")
        return f"`--{said.replace('_', '-')}`" if said else ""

    @property
    def guidance_varies(self) -> bool:
        """Whether not all steps have the same guidance scale."""
        return self.cfg_interval is not None or self.cfg_schedule is not None


def _channels(value: int | str) -> int | str:
    """How many channels are guided."""
    if value == ALL:
        return ALL
    if isinstance(value, str) and re.fullmatch(f"[0-9]{{1,{MOST_DIGITS}}}", value):
        value = int(value)
    if isinstance(value, str) or a_whole_number(value, "cfg_channels") < 1:
        raise OptionError(
            f"The guidance channels are {shortly(value)}", "Choose a number from 1, or 'all'"
        )
    return a_whole_number(value, "cfg_channels")
