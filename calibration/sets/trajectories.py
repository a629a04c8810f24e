"""The latents that a denoiser meets: rows of real denoising trajectories, drawn by the sampler.

Each trajectory gives one row for each of eight equal parts of its steps, at a place in the part
that differs from trajectory to trajectory; the guided and the unguided branch take turns. So a set
covers timesteps, labels and branches evenly, and the same seed gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...runtime.pipeline import OnStep, Pipeline
from ...runtime.sampling.condition import stack
from ...runtime.sampling.noise import draw_start
from ...runtime.sampling.settings import Settings
from .calibration_set import MAX_SEED, CalibrationSet, as_json

PARTS = 8  # of the steps of a trajectory, a row from each
FIRST_SEED = 1 << 40  # no seed that images are compared with
SEED_STRIDE = 1 << 20
END_OF_SEEDS = FIRST_SEED + (MAX_SEED + 1) * SEED_STRIDE  # no set has any from here on
GOLDEN_RATIO = (5**0.5 - 1) / 2


def draw_set(
    pipeline: Pipeline,
    num: int,
    settings: Settings,
    seed: int,
    on_step: OnStep = lambda images: None,
) -> CalibrationSet:
    """Sample ``num`` trajectories and keep eight rows of each.

    Args:
        pipeline: The fp32 graphs.
        num: Trajectories, in [1, 2**20].
        settings: How they are sampled.
        seed: In [0, 2**20]; sets of two seeds share no noise.
        on_step: Told of every step.
    """
    manifest = pipeline.manifest
    told = manifest.spread(num)
    turns = len(set(told))  # what is told takes both branches in two rounds
    seeds = [FIRST_SEED + seed * SEED_STRIDE + index for index in range(num)]
    untold = manifest.untold if settings.guided else None
    schedule = pipeline.sampler(settings).schedule
    latents, kept_steps, conditions = [], [], []
    for group in pipeline.groups(num, settings):
        walked = pipeline.trajectories(told[group], seeds[group], settings, on_step)
        start = draw_start(seeds[group], schedule, manifest.latent_shape, manifest.noise)
        fed = np.concatenate([start[None], walked[:-1]])
        for place, index in enumerate(range(num)[group]):
            turn = sum(divmod(index, turns))
            for part, step in enumerate(_kept_steps(index, settings.steps)):
                latents.append(fed[step, place])
                kept_steps.append(step)
                conditions.append(untold if untold and (turn + part) % 2 else told[index])
    return CalibrationSet(
        latents=np.stack(latents),
        timesteps=schedule.timesteps[kept_steps],
        conditions=stack(conditions),
        model=as_json(manifest.model.config),
        settings=settings,
        seed=seed,
    )


def trajectories_in(drawn: CalibrationSet) -> int:
    """How many trajectories a set has rows of."""
    return len(drawn) // min(PARTS, drawn.settings.steps)


def _kept_steps(index: int, steps: int) -> Sequence[int]:
    """The steps of the ``index``-th trajectory whose rows are kept, one in each part."""
    parts = min(PARTS, steps)
    place = (index * GOLDEN_RATIO) % 1.0  # never far from any place, however many there are
    return [int((part + place) * steps / parts) for part in range(parts)]
