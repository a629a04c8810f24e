"""Draw the goldens: let PyTorch answer on fixed noise what every graph will be asked."""

from __future__ import annotations

import numpy as np

from ..runtime.bundle.goldens import Goldens
from ..runtime.bundle.manifest import Manifest
from ..runtime.pipeline import OnStep, Pipeline, Settings
from ..runtime.sampling.noise import START, draw_noise
from ..runtime.sampling.samplers import default_sampler

CALLS = 5
STEPS = 20


def golden_settings(manifest: Manifest) -> Settings:
    """How a bundle's own trajectory is sampled: guided wherever the model can be."""
    sampler = default_sampler(manifest.schedule)
    if manifest.null_class is None:
        return Settings(STEPS, sampler, cfg_scale=1.0)
    return Settings(STEPS, sampler)


def draw_goldens(
    reference: Pipeline,
    settings: Settings,
    images: int,
    *,
    on_step: OnStep | None = None,
) -> Goldens:
    """Sample trajectories with the reference, and ask it again at five of their steps.

    The single calls are fed latents of the trajectories themselves, so each timestep sees the
    noise level that it was trained for; their labels are classes and, where there is one, the
    null class.

    Args:
        reference: PyTorch in fp32.
        settings: How the trajectories are sampled.
        images: How many, with seeds 0, 1, 2, ... and labels in turn.
        on_step: Told of every step of the trajectories.
    """
    manifest = reference.manifest
    seeds = np.arange(images, dtype=np.uint64)
    classes = np.arange(images, dtype=np.int64) % manifest.num_classes
    trajectory = reference.trajectories(classes.tolist(), seeds.tolist(), settings, on_step)

    steps = np.linspace(0, settings.steps - 1, min(CALLS, settings.steps)).round().astype(np.int64)
    start = draw_noise(seeds.tolist(), START, manifest.latent_shape)
    rows = np.arange(manifest.batch)
    fed = np.concatenate([start[None], trajectory])[steps][:, rows % images]
    null = 0 if manifest.null_class is None else manifest.null_class
    labels = np.where(rows % 2 == 0, rows % manifest.num_classes, null)
    timesteps = reference.sampler(settings).schedule.timesteps[steps]
    predictions = [
        reference.predict(latent, float(timestep), labels)
        for latent, timestep in zip(fed, timesteps, strict=True)
    ]
    return Goldens(
        timesteps=timesteps,
        latents=fed,
        labels=np.tile(labels, (len(steps), 1)),
        predictions=np.stack(predictions),
        settings=settings,
        seeds=seeds,
        classes=classes,
        trajectory=trajectory,
    )
