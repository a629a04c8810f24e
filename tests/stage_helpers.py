"""An `OnStage` that remembers what it was told."""

from __future__ import annotations

from pitstop.runtime.stage import Moved


class Heard:
    """The stages in order, each with all its steps, and the steps that were taken of it."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.all_steps: list[int] = []
        self.moved: list[int] = []

    def __call__(self, what: str, parts: int = 0, steps: int = 1) -> Moved:
        place = len(self.stages)
        self.stages.append(what)
        self.all_steps.append(parts * steps)
        self.moved.append(0)

        def moved(count: int) -> None:
            self.moved[place] += count

        return moved
