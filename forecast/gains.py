"""How much of an error in one prediction is left in the image, by the step that it is made at.

The sampler alone would make early errors enormous; the denoiser, which sees the latent that they
led to, mends most of them. So it is measured: an error like a forecast's, and the run to its end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ..runtime.pipeline import OnStep, Pipeline
from ..runtime.sampling.forecast.plan import evenly
from ..runtime.sampling.host_loop import HostLoop
from ..runtime.sampling.sampler import Latent, Prediction
from .gram import Doubles
from .recorded import Replaying
from .trajectories import Walked

PLACES = 10  # steps that are measured, and the last but one; between them it is a line


def places(steps: int) -> list[int]:
    """The steps that are measured."""
    return sorted({*evenly(steps, min(steps, PLACES)), steps - 2})


def measure_gains(pipeline: Pipeline, walked: Sequence[Walked], on_step: OnStep) -> Doubles:
    """float64 [step]: the size of the error in the image over that in the prediction.

    Never less than at any later step: few trajectories are walked, and a step that seems harmless
    in them may not be so in others.
    """
    steps = walked[0].request.steps
    measured = []
    for step in places(steps):
        sizes = np.zeros(2)
        for one in walked:
            sizes += _error_at(pipeline, one, step)
            on_step(1)
        measured.append(float(np.sqrt(sizes[1] / max(sizes[0], np.finfo(float).tiny))))
    gains = np.interp(np.arange(steps), places(steps), measured)
    return np.maximum.accumulate(gains[::-1])[::-1]


def _error_at(pipeline: Pipeline, walked: Walked, step: int) -> Doubles:
    """The squared error made at a step, and the one that it leaves in the images."""
    said = walked.predictions(step + 1)
    error = _like_a_forecasts(walked.said, step)
    said[step] = Prediction(said[step].output + error, said[step].variance)
    request = dataclasses.replace(walked.request, sampler=Replaying(walked.request.sampler, said))
    loop = HostLoop(pipeline.manifest, pipeline.session, pipeline.conditioner)
    [drawn] = loop.draw([request], lambda latents: None)
    return np.array([_squares(error), _squares(drawn - walked.drawn)])


def _like_a_forecasts(said: Latent, step: int) -> Latent:
    """The error of the line through two calls before; at the first steps, after."""
    apart = 2 if len(said) >= 8 else 1
    near, far = (2 * apart, apart) if step < 2 * apart else (-apart, -2 * apart)
    error: Latent = 1.5 * said[step + near] - 0.5 * said[step + far] - said[step]
    return error


def _squares(array: Latent) -> float:
    return float(np.sum(array.astype(np.float64) ** 2))
