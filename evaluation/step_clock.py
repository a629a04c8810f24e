"""Times the steps of a run from the outside, by when it tells of them."""

from __future__ import annotations

import time

import numpy as np

from ..runtime.stage import Moved


class StepClock:
    """Hands on what a run tells of its steps, and keeps when it told it."""

    def __init__(self, moved: Moved) -> None:
        self._moved = moved
        self._times: list[float] = []
        self._images: list[int] = []

    def tick(self, images: int) -> None:
        self._times.append(time.perf_counter())
        self._images.append(images)
        self._moved(images)

    @property
    def ms_per_step(self) -> float | None:
        """The median time between two steps, in milliseconds; None where there were not two."""
        return 1000 * float(np.median(np.diff(self._times))) if len(self._times) > 1 else None

    @property
    def ms_per_image_step(self) -> float | None:
        """The same over how many images took the step together."""
        if len(self._times) < 2:
            return None
        return 1000 * float(
            np.median(np.diff(np.asarray(self._times)) / np.asarray(self._images[1:]))
        )
