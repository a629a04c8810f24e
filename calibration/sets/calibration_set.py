"""A calibration set: rows that a denoiser is fed, in one .npz that any machine can read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ... import CalibrationError, OptionError
from ...runtime.array_file import BROKEN
from ...runtime.bundle.fields import why_not_numbers
from ...runtime.bundle.goldens import take_named
from ...runtime.bundle.manifest import Manifest
from ...runtime.sampling.sampler import Latent
from ...runtime.sampling.samplers import sampler_for
from ...runtime.sampling.schedule import Table, Timesteps
from ...runtime.sampling.settings import Settings
from ...runtime.session import Array

MAX_SEED = 1 << 20  # of a set; the one after a set's own is for what is held out
ARRAYS = ("latents", "timesteps")
CONDITIONS = "conditions"  # a group of arrays, each as ``conditions.name``
OLD_NAMES = {"labels": "conditions.label"}  # before bundles of schema version 3
REMEDY = "Draw a set with `pitstop calibrate`, without `--set`"


@dataclass(frozen=True)
class CalibrationSet:
    """What the denoiser is fed while ranges are gathered.

    Attributes:
        latents: float32 [row, channel, row, column].
        timesteps: int64 [row], or float64 of a flow.
        conditions: What each row was told, by name, [row, ...]; untold in the unguided branch.
        model: The config of the model whose trajectories they are.
        settings: How they were sampled.
        seed: Of the set.
    """

    latents: Latent
    timesteps: Timesteps | Table
    conditions: Mapping[str, Array]
    model: Mapping[str, Any]
    settings: Settings
    seed: int

    def __len__(self) -> int:
        return len(self.latents)

    def first(self, rows: int) -> CalibrationSet:
        """The first rows alone."""
        part = {name: getattr(self, name)[:rows] for name in ARRAYS}
        conditions = {name: array[:rows] for name, array in self.conditions.items()}
        return dataclasses.replace(self, conditions=conditions, **part)


def as_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config as a file gives it back: lists for tuples."""
    plain: dict[str, Any] = json.loads(json.dumps(config, sort_keys=True))
    return plain


def write_set(drawn: CalibrationSet, path: Path) -> None:
    """Write a set as one .npz; the same set gives the same bytes."""
    facts = {
        "model": drawn.model,
        "settings": drawn.settings.as_dict(),
        "seed": drawn.seed,
    }
    arrays: dict[str, Array] = {name: getattr(drawn, name) for name in ARRAYS}
    arrays |= {f"{CONDITIONS}.{name}": rows for name, rows in drawn.conditions.items()}
    np.savez(path, facts=np.array(json.dumps(facts, sort_keys=True)), **arrays)  # type: ignore[arg-type]


def read_set(path: Path, manifest: Manifest) -> CalibrationSet:
    """Read what `write_set` wrote, and check that it is for the model in ``manifest``.

    Raises:
        CalibrationError: No calibration set, one of another model, or one with a number in it that
            is not finite.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {OLD_NAMES.get(name, name): archive[name] for name in archive.files}
        facts = json.loads(str(arrays.pop("facts")))
        drawn = CalibrationSet(
            conditions=take_named(arrays, CONDITIONS),
            **arrays,
            model=dict(facts["model"]),
            settings=Settings(**facts["settings"]),
            seed=int(facts["seed"]),
        )
    except OptionError as error:
        raise CalibrationError(
            f"{path} has settings that cannot be: {error.problem}", REMEDY
        ) from error
    except BROKEN as error:
        raise CalibrationError(f"{path} holds no calibration set ({error})", REMEDY) from error
    if why := _why_not(drawn, manifest):
        raise CalibrationError(f"{path} {why}", REMEDY)
    return drawn


def _why_not(drawn: CalibrationSet, manifest: Manifest) -> str | None:
    """Say why a set does not fit this bundle, or None where it does."""
    return _why_not_facts(drawn, manifest) or _why_not_arrays(drawn, manifest)


def _why_not_facts(drawn: CalibrationSet, manifest: Manifest) -> str | None:
    expected = as_json(manifest.model.config)
    for name in sorted({*expected, *drawn.model}):
        if expected.get(name) != drawn.model.get(name):
            return (
                f"was drawn from a model with {name} {drawn.model.get(name)}, the bundle's has "
                f"{expected.get(name)}"
            )
    if not 0 <= drawn.seed < MAX_SEED:
        return f"has seed {drawn.seed}, expected 0 to {MAX_SEED - 1}"
    steps, most = drawn.settings.steps, manifest.schedule.most_steps
    if not 1 <= steps <= most:
        return f"was drawn in {steps} steps, expected 1 to {most}"
    return _why_not_sampler(drawn.settings, manifest)


def _why_not_sampler(settings: Settings, manifest: Manifest) -> str | None:
    try:
        sampler_for(manifest, settings)
    except OptionError as error:
        return f"has settings that cannot be: {error.problem}"
    return None


def _why_not_arrays(drawn: CalibrationSet, manifest: Manifest) -> str | None:
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
    visited = sampler_for(manifest, drawn.settings).schedule.timesteps
    return manifest.why_not_told(drawn.conditions, rows) or why_not_numbers(
        "timesteps", drawn.timesteps, rows, str(visited.dtype), manifest.schedule.last_timestep
    )
