"""How images are sampled: what a user chooses of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

from ... import OptionError
from .asked import a_number, a_whole_number
from .forecast.plan import LEAST_CALLS
from .schedule.scheduler import AUTO


@dataclass(frozen=True)
class Settings:
    """How images are sampled.

    Attributes:
        steps: Of a run, from 1 to the model's training steps.
        sampler: ``ddim``, ``ddpm``, ``dpmpp_2m``, ``dpmpp_2m_sde``, ``unipc``, ``unipc_3`` or
            ``euler``; ``euler`` or ``heun`` for a flow; ``auto`` is what the model's scheduler
            says, else ``ddim``, or ``euler`` for a flow.
        cfg_scale: Guidance scale; 1 is none.
        eta: DDIM's share of fresh noise, in [0, 1].
        spacing: Which timesteps are visited: ``leading``, ``linspace``, ``trailing`` or
            ``official``; ``auto`` is what the model's scheduler says, else the sampler's own.
        calls: Steps that call the denoiser, from 3; the others are forecast. None for all of them,
            which as many as there are steps becomes.
    """

    steps: int = 50
    sampler: str = AUTO
    cfg_scale: float = 4.0
    eta: float = 0.0
    spacing: str = AUTO
    calls: int | None = None

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
        """For a file: without calls where all steps call, as before there were forecasts."""
        told = dataclasses.asdict(self)
        if self.calls is None:
            del told["calls"]
        return told

    @property
    def guided(self) -> bool:
        return self.cfg_scale != 1.0
