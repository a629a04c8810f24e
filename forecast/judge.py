"""How far the images of a plan are from those of all calls, on the same noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ..runtime.distance import latent_peak, psnr
from ..runtime.pipeline import OnStep, Pipeline
from ..runtime.sampling.forecast.forecasting import Forecasting
from ..runtime.sampling.forecast.plan import Plan
from .trajectories import Walked


def judge_plan(
    pipeline: Pipeline, walked: Sequence[Walked], plan: Plan, on_step: OnStep
) -> list[float]:
    """Draw every trajectory once more by a plan: the PSNR of each image in dB."""
    space, decibels = pipeline.manifest.latent_space, []
    for one in walked:
        sampler = Forecasting(one.request.sampler, plan)
        request = dataclasses.replace(one.request, sampler=sampler)
        [drawn] = pipeline.loop.draw([request], lambda latents: None)
        on_step(one.request.images)
        decibels += [
            psnr(wanted, found, latent_peak(wanted, space))
            for wanted, found in zip(one.drawn, drawn, strict=True)
        ]
    return decibels


def peak(walked: Sequence[Walked], latent_space: str) -> float:
    """Of the PSNR of a mean squared error."""
    return float(
        np.mean([latent_peak(image, latent_space) for one in walked for image in one.drawn])
    )
