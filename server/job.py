"""A job: the images that one client asks for, and what is told of them on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .. import PitstopError
from ..runtime.sampling.request import Request
from ..runtime.sampling.sampler import Latent


@dataclass(frozen=True)
class Moved:
    """An image took a step.

    Attributes:
        image: Its place in the job.
        step: From 1.
        latent: float32 [1, channel, row, column], after it.
    """

    image: int
    step: int
    latent: Latent


@dataclass(frozen=True)
class Drawn:
    """An image is whole: its last latent, float32 [1, channel, row, column]."""

    image: int
    latent: Latent


@dataclass(frozen=True)
class Failed:
    """Nothing more comes, and why."""

    error: PitstopError


Event = Moved | Drawn | Failed


class Job:
    """What one client asks for.

    Attributes:
        requests: One for each image.
        tell: Told of each event, from the thread that draws.
        watched: The steps, from 1, that it is told of.
        cancelled: Whether nobody waits for it any more. Any thread may set it; its rows leave
            before the next step.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        tell: Callable[[Event], None],
        watched: frozenset[int] = frozenset(),
    ) -> None:
        self.requests, self.tell, self.watched = requests, tell, watched
        self.cancelled = False

    def fail(self, error: PitstopError) -> None:
        """End it for all its images."""
        if not self.cancelled:
            self.cancelled = True
            self.tell(Failed(error))
