"""What long work tells of itself: each stage as it begins, and how far it is.

The library never prints. Whoever calls it may show what it is told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Moved = Callable[[int], None]
"""Told of how many steps more were taken."""


class OnStage(Protocol):
    """Told of a stage as it begins, which ends the one before it."""

    def __call__(self, what: str, parts: int = 0, steps: int = 1) -> Moved:
        """Begin a stage.

        Args:
            what: It does, in a few words.
            parts: How many things it does; 0 where that is not known.
            steps: That each of them takes.

        Returns:
            What is told of the steps as they are taken.
        """


def unheard(what: str, parts: int = 0, steps: int = 1) -> Moved:
    """An `OnStage` for work that nobody watches."""
    return lambda count: None
