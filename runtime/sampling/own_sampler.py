"""A sampler object of the user's: checked for what a rule must have, and drawn on the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ... import OptionError
from ..said import shortly
from .around import Around
from .sampler import Latent, Memory, Prediction
from .schedule import Training
from .settings import Settings

SUCH = "an object like `pitstop.runtime.sampling.sampler.Sampler`"


@dataclass(frozen=True)
class OwnSampler(Around):
    """A user's rule, what it answers looked at; every step asks the denoiser."""

    @property
    def name(self) -> str:
        return type(self.rule).__name__

    @property
    def asks(self) -> list[bool]:
        return [True] * self.schedule.steps

    def step(
        self,
        index: int,
        latent: Latent,
        prediction: Prediction,
        noise: Latent | None,
        memory: Memory,
    ) -> tuple[Latent, Memory]:
        answer: Any = self.rule.step(index, latent, prediction, noise, memory)
        if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[1], tuple):
            raise OptionError(
                f"step of the sampler {self.name} returned {shortly(answer)}",
                "Return the latent and a tuple of what it remembers, such as `(moved, ())`",
            )
        moved = np.asarray(answer[0])
        if moved.shape != latent.shape or not np.issubdtype(moved.dtype, np.floating):
            raise OptionError(
                f"step of the sampler {self.name} returned a latent {list(moved.shape)} in "
                f"{moved.dtype}",
                f"Return {list(latent.shape)} in float32",
            )
        return moved.astype(np.float32, copy=False), answer[1]


def own_sampler(given: object, training: Training) -> OwnSampler:
    """A sampler object of the user's.

    Raises:
        OptionError: It lacks what a rule must have, or visits what the model was not trained on.
    """
    rule: Any = given
    lacking = [name for name in ("schedule", "stochastic", "step") if not hasattr(rule, name)]
    if lacking or isinstance(rule, type):
        found = shortly(rule)
        has_not = f"which has no {', no '.join(lacking)}" if lacking else "a class, not an object"
        raise OptionError(
            f"sampler is {found}, {has_not}",
            f"Give a name, such as 'ddim', or {SUCH}",
        )
    if not callable(rule.step) or not isinstance(rule.stochastic, bool | np.bool_):
        raise OptionError(
            f"The sampler {shortly(rule)} has a step that is none, or a stochastic that is not "
            "True or False",
            f"Give {SUCH}",
        )
    _check_schedule(rule.schedule, type(rule).__name__, training)
    return OwnSampler(rule)


def _check_schedule(schedule: Any, name: str, training: Training) -> None:
    wanted = ("timesteps", "steps", "start", "amplitudes")
    lacking = [one for one in wanted if not hasattr(schedule, one)]
    if lacking:
        raise OptionError(
            f"The schedule of the sampler {name} has no {', no '.join(lacking)}",
            "Take one of `pitstop.runtime.sampling.schedule`: Schedule, or FlowSchedule for a flow",
        )
    timesteps, last = np.asarray(schedule.timesteps), training.last_timestep
    if timesteps.ndim != 1 or not len(timesteps) or len(timesteps) != schedule.steps:
        raise OptionError(
            f"The schedule of the sampler {name} has {schedule.steps} steps and timesteps of shape "
            f"{list(timesteps.shape)}",
            "Give one timestep for each step",
        )
    if not np.issubdtype(timesteps.dtype, np.number) or not (
        (timesteps >= 0).all() and (timesteps <= last).all()
    ):
        raise OptionError(
            f"The sampler {name} visits timesteps that this model was not trained on",
            f"Choose them from 0 to {last:g}",
        )
    start = schedule.start
    if not isinstance(start, int | float) or not 0 < start < float("inf"):
        raise OptionError(
            f"The schedule of the sampler {name} starts from noise times {shortly(start)}",
            "Give a number above 0: 1 where the noise is taken as it is",
        )


def refuse_beside(own: OwnSampler, steps: int | None, **said: object) -> None:
    """Refuse what a sampler by name is asked for, and an object brings along or cannot have.

    Args:
        own: The object.
        steps: That were asked for, or None.
        said: What else was said, by its argument's name.

    Raises:
        OptionError: Something was, that is not as it is by default.
    """
    if steps is not None and steps != own.schedule.steps:
        raise OptionError(
            f"{shortly(steps)} steps were asked for, and the sampler {own.name} visits "
            f"{own.schedule.steps}",
            "Leave out the steps: the object's own schedule says them",
        )
    for name, value in said.items():
        if value is not None and value != getattr(Settings, name, None):
            raise OptionError(
                f"{name} was given beside the sampler {own.name}, an object that says itself where "
                "it goes",
                f"Leave out {name}, or choose a sampler by its name",
            )
