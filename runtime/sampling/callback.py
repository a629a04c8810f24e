"""A callback: what it is told after each step, and how it stops a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ... import OptionError
from ..said import shortly
from .loop import OnStep
from .request import Request
from .sampler import Latent


@dataclass(frozen=True, eq=False)
class Step:
    """Where a run is after one of its steps.

    Attributes:
        step: Of those taken: 1 after the first, `count` after the last.
        count: Of the run's steps.
        timestep: What the denoiser is fed at this step: a training timestep, or a flow's time.
        latents: float32 [image, channel, row, column] after it, to be read only.
        images: Which of the run's images these are; more than one call takes go in groups, one
            after the other.
    """

    step: int
    count: int
    timestep: float
    latents: Latent
    images: range


Callback = Callable[[Step], bool | None]
"""Told of each step; one that returns True stops the run."""


class Stopped(Exception):
    """A callback stopped a run: no error, but its end."""

    def __init__(self, latents: Latent) -> None:
        super().__init__()
        self.latents = latents


class Telling:
    """What a callback is told of a run, and where it stopped it.

    Attributes:
        stopped_after: The step; None while it goes on.
    """

    def __init__(self, callback: Callback) -> None:
        self._callback = callback
        self.stopped_after: int | None = None

    def of(self, request: Request, first: int) -> OnStep:
        """What a loop tells of one request, whose images begin at ``first``; it must look."""
        taken = 0

        def tell(latents: Sequence[Latent]) -> None:
            nonlocal taken
            [latent] = latents
            timestep = float(request.sampler.schedule.timesteps[taken])
            taken += 1
            images = range(first, first + request.images)
            seen = latent.view()
            seen.flags.writeable = False
            if _stops(self._callback(Step(taken, request.steps, timestep, seen, images))):
                self.stopped_after = taken
                raise Stopped(latent)

        return tell


def _stops(answer: object) -> bool:
    """Whether a callback's answer stops the run."""
    if answer is None or isinstance(answer, bool | np.bool_):
        return bool(answer)
    raise OptionError(
        f"The callback returned {shortly(answer)}", "Return True to stop the run, or nothing"
    )
