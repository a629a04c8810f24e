"""Draw the goldens: let PyTorch answer on fixed noise what every graph will be asked."""

from __future__ import annotations

import dataclasses

import numpy as np

from ..runtime.bundle.goldens import Goldens
from ..runtime.bundle.manifest import Manifest
from ..runtime.pipeline import OnStep, Pipeline
from ..runtime.sampling.condition import stack
from ..runtime.sampling.guidance.scales import usual_scale
from ..runtime.sampling.noise import draw_start
from ..runtime.sampling.samplers import default_sampler
from ..runtime.sampling.settings import Settings

CALLS = 5
STEPS = 20


def golden_settings(manifest: Manifest) -> Settings:
    """How a bundle's own trajectory is sampled: guided wherever the model can be."""
    steps = min(STEPS, manifest.schedule.most_steps)
    return Settings(steps, default_sampler(manifest), usual_scale(manifest))


def draw_goldens(
    reference: Pipeline,
    settings: Settings,
    images: int,
    *,
    rows: int = 1,
    on_step: OnStep | None = None,
) -> Goldens:
    """Sample trajectories with the reference, and ask it again at five of their steps.

    The single calls are fed latents of the trajectories themselves, so each timestep sees the
    noise level that it was trained for; their rows are told something and, where that can be,
    nothing in turn.

    Args:
        reference: PyTorch in fp32.
        settings: How the trajectories are sampled.
        images: How many, with seeds 0, 1, 2, ... and conditions in turn.
        rows: Of a call of the trajectories, where the graph's batch is less: PyTorch takes more.
        on_step: Told of every step of the trajectories.
    """
    manifest = reference.manifest
    seeds = np.arange(images, dtype=np.uint64)
    told = manifest.examples(images)
    wide = dataclasses.replace(manifest, batch=max(rows, manifest.batch))
    walking = Pipeline(wide, reference.session, reference.precision)
    trajectory = walking.trajectories(told, seeds.tolist(), settings, on_step)

    steps = np.linspace(0, settings.steps - 1, min(CALLS, settings.steps)).round().astype(np.int64)
    schedule = reference.sampler(settings).schedule
    start = draw_start(seeds.tolist(), schedule, manifest.latent_shape, manifest.noise)
    fed = np.concatenate([start[None], trajectory])[steps][:, np.arange(manifest.batch) % images]
    conditions = stack(manifest.both_branches(manifest.batch))
    timesteps = schedule.timesteps[steps]
    predictions = [
        reference.predict(latent, float(timestep), conditions)
        for latent, timestep in zip(fed, timesteps, strict=True)
    ]
    return Goldens(
        timesteps=timesteps,
        latents=fed,
        conditions={name: np.stack([rows] * len(steps)) for name, rows in conditions.items()},
        predictions=np.stack(predictions),
        settings=settings,
        seeds=seeds,
        told=stack(told),
        trajectory=trajectory,
    )
