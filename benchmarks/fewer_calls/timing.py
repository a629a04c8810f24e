"""How long an image takes by each method, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

from pitstop.evaluation.speed.interleave import interleave
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.settings import Settings

Ways = Mapping[str, tuple[Pipeline, Settings]]


def time_images(
    ways: Ways, images: int, rounds: int, on_turn: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Milliseconds of an image, the median of the rounds, by name.

    Args:
        ways: What draws, and how.
        images: Drawn at once in a turn.
        rounds: Turns of each.
        on_turn: Called after every turn.
    """

    def turn(pipeline: Pipeline, settings: Settings) -> Callable[[], float]:
        told = pipeline.manifest.examples(images)

        def measure() -> float:
            start = time.perf_counter()
            pipeline.draw(told, range(images), settings)
            return time.perf_counter() - start

        return measure

    turns = {name: turn(*way) for name, way in ways.items()}
    measured = interleave(turns, rounds, on_turn=on_turn)
    return {name: 1000 * float(np.median(times)) / images for name, times in measured.items()}
