"""The latents that a denoiser meets: rows of real denoising trajectories, drawn by the sampler.

Each trajectory gives one row for each of eight equal parts of its steps, at a place in the part
that differs from trajectory to trajectory; the guided and the unguided branch take turns. So a set
covers timesteps, labels and branches evenly, and the same seed gives the same bytes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..runtime.errors import CalibrationError, OptionError
from ..runtime.goldens import BROKEN
from ..runtime.manifest import Manifest
from ..runtime.noise import START, draw_noise
from ..runtime.pipeline import OnStep, Pipeline, Settings
from ..runtime.sampler import Latent

PARTS = 8  # of the steps of a trajectory, a row from each
FIRST_SEED = 1 << 40  # no seed that images are compared with
SEED_STRIDE = 1 << 20
MAX_SEED = 1 << 20
GOLDEN_RATIO = (5**0.5 - 1) / 2
ARRAYS = ("latents", "timesteps", "labels")
REMEDY = "Draw a set with `pitstop calibrate`, without `--set`"


@dataclass(frozen=True)
class CalibrationSet:
    """What the denoiser is fed while ranges are gathered.

    Attributes:
        latents: float32 [row, channel, row, column].
        timesteps: int64 [row].
        labels: int64 [row]; the null class stands for the unguided branch.
        model: The config of the model whose trajectories they are.
        settings: How they were sampled.
        seed: Of the set.
    """

    latents: Latent
    timesteps: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    model: Mapping[str, Any]
    settings: Settings
    seed: int

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, rows: int) -> CalibrationSet:
        """The first rows alone."""
        part = {name: getattr(self, name)[:rows] for name in ARRAYS}
        return dataclasses.replace(self, **part)


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
        num: Trajectories.
        settings: How they are sampled.
        seed: In [0, 2**20]; sets of two seeds share no noise.
        on_step: Told of every step.

    Raises:
        OptionError: No trajectory was asked for, or the seed is out of range.
    """
    if num < 1:
        raise OptionError(f"{num} trajectories were asked for", "Choose at least 1 with `--num`")
    if not 0 <= seed <= MAX_SEED:
        raise OptionError(f"The seed is {seed}", f"Choose one from 0 to {MAX_SEED}")
    manifest = pipeline.manifest
    classes = spread_classes(num, manifest.num_classes)
    seeds = [FIRST_SEED + seed * SEED_STRIDE + index for index in range(num)]
    null = manifest.null_class if settings.cfg_scale != 1.0 else None
    timesteps = pipeline.sampler(settings).schedule.timesteps
    latents, kept_steps, labels = [], [], []
    for group in pipeline.groups(num, settings):
        walked = pipeline.trajectories(classes[group], seeds[group], settings, on_step)
        start = draw_noise(seeds[group], START, manifest.latent_shape)
        fed = np.concatenate([start[None], walked[:-1]])
        for place, index in enumerate(range(num)[group]):
            for part, step in enumerate(_kept_steps(index, settings.steps)):
                unguided = null is not None and (index + part) % 2 == 1
                latents.append(fed[step, place])
                kept_steps.append(step)
                labels.append(null if unguided else classes[index])
    return CalibrationSet(
        latents=np.stack(latents),
        timesteps=timesteps[kept_steps].astype(np.int64),
        labels=np.array(labels, dtype=np.int64),
        model=as_json(manifest.model.config),
        settings=settings,
        seed=seed,
    )


def write_set(drawn: CalibrationSet, path: Path) -> None:
    """Write a set as one .npz; the same set gives the same bytes."""
    facts = {
        "model": drawn.model,
        "settings": dataclasses.asdict(drawn.settings),
        "seed": drawn.seed,
    }
    arrays = {name: getattr(drawn, name) for name in ARRAYS}
    np.savez(path, facts=np.array(json.dumps(facts, sort_keys=True)), **arrays)


def read_set(path: Path, manifest: Manifest) -> CalibrationSet:
    """Read what `write_set` wrote, and check that it is for the model in ``manifest``.

    Raises:
        CalibrationError: No calibration set, one of another model, or one with a number in it that
            is not finite.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in ARRAYS}
            facts = json.loads(str(archive["facts"]))
        drawn = CalibrationSet(
            **arrays,
            model=dict(facts["model"]),
            settings=Settings(**facts["settings"]),
            seed=int(facts["seed"]),
        )
    except BROKEN as error:
        raise CalibrationError(f"{path} holds no calibration set ({error})", REMEDY) from error
    if why := _why_not(drawn, manifest):
        raise CalibrationError(f"{path} {why}", REMEDY)
    return drawn


def _why_not(drawn: CalibrationSet, manifest: Manifest) -> str | None:
    """Say why a set does not fit this bundle, or None where it does."""
    expected = as_json(manifest.model.config)
    for name in sorted({*expected, *drawn.model}):
        if expected.get(name) != drawn.model.get(name):
            return (
                f"was drawn from a model with {name} {drawn.model.get(name)}, the bundle's has "
                f"{expected.get(name)}"
            )
    rows = len(drawn.latents) if drawn.latents.ndim else 0
    if not rows:
        return "is empty"
    if drawn.latents.shape != (rows, *manifest.latent_shape) or drawn.latents.dtype != np.float32:
        return (
            f"has latents {drawn.latents.dtype} {list(drawn.latents.shape)}, the bundle's are "
            f"float32 {[rows, *manifest.latent_shape]}"
        )
    if not np.isfinite(drawn.latents).all():
        row = int(np.argmin(np.isfinite(drawn.latents).reshape(rows, -1).all(axis=1)))
        return f"has a latent that is not finite, in row {row}"
    labels = manifest.num_classes + (manifest.null_class is not None)
    limits = {"labels": labels, "timesteps": manifest.schedule.train_steps}
    for name, limit in limits.items():
        array = getattr(drawn, name)
        if array.shape != (rows,) or array.dtype.kind != "i":
            return f"has {name} {array.dtype} {list(array.shape)}, expected int64 {[rows]}"
        if array.min() < 0 or array.max() >= limit:
            return f"has {name} from {array.min()} to {array.max()}, expected 0 to {limit - 1}"
    return None


def spread_classes(num: int, classes: int) -> list[int]:
    """A class for each trajectory: all in turn, or evenly spread where there are more of them."""
    if num >= classes:
        return [index % classes for index in range(num)]
    return [index * classes // num for index in range(num)]


def _kept_steps(index: int, steps: int) -> Sequence[int]:
    """The steps of the ``index``-th trajectory whose rows are kept, one in each part."""
    parts = min(PARTS, steps)
    place = (index * GOLDEN_RATIO) % 1.0  # never far from any place, however many there are
    return [int((part + place) * steps / parts) for part in range(parts)]


def as_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config as a file gives it back: lists for tuples."""
    plain: dict[str, Any] = json.loads(json.dumps(config, sort_keys=True))
    return plain
