"""Which steps of a run are whole calls, as the caching papers' own code chooses them.

Steps are counted from 0, the noisiest; the papers count them down to 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Schedule = Callable[[int, int], tuple[int, ...]]
"""The called steps of a run, of its steps and an interval."""

WARM_UP = 2  # TaylorSeer's first_enhance


def fora(steps: int, interval: int) -> tuple[int, ...]:
    """FORA (Selvaraju et al., 2024): the first, then all whose countdown the interval divides."""
    countdown = range(steps - 1, -1, -1)
    return tuple(
        index for index, left in enumerate(countdown) if index == 0 or left % interval == 0
    )


def taylorseer(steps: int, interval: int) -> tuple[int, ...]:
    """TaylorSeer (Liu et al., 2025): the first two, then each after ``interval - 1`` cheap ones."""
    return tuple(
        index for index in range(steps) if index < WARM_UP or (index - WARM_UP + 1) % interval == 0
    )


def at_least(schedule: Schedule, steps: int, calls: int) -> tuple[int, ...]:
    """The fewest called steps that a schedule can have, and no fewer than ``calls``."""
    every: Sequence[tuple[int, ...]] = [
        schedule(steps, interval) for interval in range(1, steps + 1)
    ]
    return min((called for called in every if len(called) >= calls), key=len)
