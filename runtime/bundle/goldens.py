"""The goldens: inputs and PyTorch outputs, so that a device can check itself without PyTorch."""

from __future__ import annotations

import dataclasses
import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ... import BundleError
from ..pipeline import Settings
from ..sampling.sampler import Latent
from ..sampling.schedule import Table, Timesteps

FILE_NAME = "goldens.npz"
BROKEN = (  # what NumPy raises at one kind of broken file or another
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class Goldens:
    """What PyTorch in fp32 answered, for single calls and for a whole trajectory.

    Attributes:
        timesteps: int64 or float64 [call], the timestep of each call.
        latents: float32 [call, batch, channel, row, column], fed at that timestep.
        labels: int64 [call, batch], fed beside them.
        predictions: float32 [call, batch, output channel, row, column].
        settings: How the trajectory was sampled.
        seeds: uint64 [image], the seeds of its noise.
        classes: int64 [image], its labels.
        trajectory: float32 [step, image, channel, row, column], the latents after each step.
    """

    timesteps: Timesteps | Table
    latents: Latent
    labels: npt.NDArray[np.int64]
    predictions: Latent
    settings: Settings
    seeds: npt.NDArray[np.uint64]
    classes: npt.NDArray[np.int64]
    trajectory: Latent


def write_goldens(goldens: Goldens, folder: Path) -> None:
    """Write the goldens into the folder of a new bundle."""
    arrays = {
        field.name: getattr(goldens, field.name)
        for field in dataclasses.fields(Goldens)
        if field.name != "settings"
    }
    settings = json.dumps(dataclasses.asdict(goldens.settings))
    np.savez(folder / FILE_NAME, settings=np.array(settings), **arrays)


def read_goldens(path: Path) -> Goldens:
    """Read what `write_goldens` wrote.

    Raises:
        BundleError: The file is no archive of goldens.
    """
    try:
        # Opened here: NumPy leaves a broken archive open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        settings = Settings(**json.loads(str(arrays.pop("settings"))))
        return Goldens(settings=settings, **arrays)
    except BROKEN as error:
        raise BundleError(
            f"{path} holds no goldens ({error})", "Copy the bundle again, or export it again"
        ) from error
