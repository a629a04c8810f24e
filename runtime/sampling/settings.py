"""How images are sampled: what a user chooses of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from ... import OptionError
from .asked import a_number, a_whole_number
from .schedule.scheduler import AUTO


@dataclass(frozen=True)
class Settings:
    """How images are sampled.

    Attributes:
        steps: Denoiser calls for an image, from 1 to the model's training steps.
        sampler: ``ddim``, ``ddpm``, ``dpmpp_2m``, ``dpmpp_2m_sde``, ``unipc``, ``unipc_3`` or
            ``euler``; ``euler`` or ``heun`` for a flow; ``auto`` is
            what the model's scheduler says, else ``ddim``, or ``euler`` for a flow.
        cfg_scale: Guidance scale; 1 is none.
        eta: DDIM's share of fresh noise, in [0, 1].
        spacing: Which timesteps are visited: ``leading``, ``linspace``, ``trailing`` or
            ``official``; ``auto`` is what the model's scheduler says, else the sampler's own.
    """

    steps: int = 50
    sampler: str = AUTO
    cfg_scale: float = 4.0
    eta: float = 0.0
    spacing: str = AUTO

    def __post_init__(self) -> None:
        set_field = partial(object.__setattr__, self)  # NumPy's numbers become Python's
        set_field("steps", a_whole_number(self.steps, "steps"))
        scale = a_number(self.cfg_scale, "The guidance scale", "a number of at least 0")
        set_field("cfg_scale", scale)
        set_field("eta", a_number(self.eta, "eta", "0 to 1"))
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

    @property
    def guided(self) -> bool:
        return self.cfg_scale != 1.0
