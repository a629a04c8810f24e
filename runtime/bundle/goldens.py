"""The goldens: inputs and PyTorch outputs, so that a device can check itself without PyTorch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ... import BundleError
from ..array_file import BROKEN
from ..sampling.sampler import Latent
from ..sampling.schedule import Table, Timesteps
from ..sampling.settings import Settings
from ..session import Array
from .fields import a_count, a_number, a_table, a_text

FILE_NAME = "goldens.npz"
ARRAYS = ("timesteps", "latents", "predictions", "seeds", "trajectory")
NAMED = ("conditions", "told")  # groups of arrays, each as ``group.name``
OLD_NAMES = {"labels": "conditions.label", "classes": "told.label"}  # before schema version 3


@dataclass(frozen=True)
class Call:
    """One call of the denoiser, without guidance.

    Attributes:
        timestep: The same for all rows.
        latent: float32 [batch, channel, row, column].
        conditions: What each row is told, by name, [batch, ...].
        prediction: float32 [batch, output channel, row, column], PyTorch's answer.
    """

    timestep: float
    latent: Latent
    conditions: Mapping[str, Array]
    prediction: Latent


@dataclass(frozen=True)
class Goldens:
    """What PyTorch in fp32 answered, for single calls and for a whole trajectory.

    Attributes:
        timesteps: int64 or float64 [call], the timestep of each call.
        latents: float32 [call, batch, channel, row, column], fed at that timestep.
        conditions: What each row of each call was told, by name, [call, batch, ...].
        predictions: float32 [call, batch, output channel, row, column].
        settings: How the trajectory was sampled.
        seeds: uint64 [image], the seeds of its noise.
        told: What each image was told, by name, [image, ...].
        trajectory: float32 [step, image, channel, row, column], the latents after each step.
    """

    timesteps: Timesteps | Table
    latents: Latent
    conditions: Mapping[str, Array]
    predictions: Latent
    settings: Settings
    seeds: npt.NDArray[np.uint64]
    told: Mapping[str, Array]
    trajectory: Latent

    @property
    def calls(self) -> list[Call]:
        """The single calls, each with PyTorch's answer."""
        return [
            Call(float(timestep), latent, {n: rows[k] for n, rows in self.conditions.items()}, said)
            for k, (timestep, latent, said) in enumerate(
                zip(self.timesteps, self.latents, self.predictions, strict=True)
            )
        ]


def take_named(arrays: dict[str, Array], group: str) -> dict[str, Array]:
    """Take the arrays of one group, which stand in a file as ``group.name``, out of ``arrays``.

    Raises:
        KeyError: There is none.
    """
    names = [name for name in arrays if name.startswith(f"{group}.")]
    if not names:
        raise KeyError(group)
    return {name.removeprefix(f"{group}."): arrays.pop(name) for name in names}


def write_goldens(goldens: Goldens, folder: Path) -> None:
    """Write the goldens into the folder of a new bundle."""
    arrays: dict[str, Array] = {name: getattr(goldens, name) for name in ARRAYS}
    for group in NAMED:
        arrays |= {f"{group}.{name}": rows for name, rows in getattr(goldens, group).items()}
    settings = json.dumps(goldens.settings.as_dict())
    np.savez(folder / FILE_NAME, settings=np.array(settings), **arrays)  # type: ignore[arg-type]


def _settings(text: str) -> Settings:
    content = a_table(json.loads(text), "settings")
    a_count(content["steps"], "steps")
    a_text(content["sampler"], "sampler")
    for name in ("cfg_scale", "eta"):
        a_number(content, name, 0.0)
    return Settings(**content)


def read_goldens(path: Path) -> Goldens:
    """Read what `write_goldens` wrote.

    Raises:
        BundleError: The file is no archive of goldens.
    """
    try:
        # Opened here: NumPy leaves a broken archive open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        settings = _settings(str(arrays.pop("settings")))
        arrays = {OLD_NAMES.get(name, name): array for name, array in arrays.items()}
        named = {group: take_named(arrays, group) for group in NAMED}
        return Goldens(settings=settings, **named, **arrays)  # type: ignore[arg-type]
    except BROKEN as error:
        raise BundleError(
            f"{path} holds no goldens ({error})", "Copy the bundle again, or export it again"
        ) from error
