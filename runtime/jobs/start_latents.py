"""The noise that the images of a run start from, read from a ``.npy`` file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ... import OptionError
from ..array_file import BROKEN
from ..sampling.asked import as_latents
from ..sampling.sampler import Latent

REMEDY = "Name a .npy file of latents, as `numpy.save` writes it"
ARCHIVE = b"PK"  # the first bytes of an .npz


def read_latents(path: Path, shape: tuple[int, int, int]) -> Latent:
    """float32 [image, channel, row, column], of latents of a shape.

    Raises:
        OptionError: There is no such file, or it holds something else.
    """
    if not path.is_file():
        raise OptionError(f"{path} is no file", REMEDY)
    try:
        with path.open("rb") as file:
            is_archive = file.read(len(ARCHIVE)) == ARCHIVE
        if is_archive:
            raise OptionError(f"{path} is an archive, which holds several arrays", REMEDY)
        with np.errstate(all="ignore"):  # of a shape that the header made up
            stored = np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise OptionError(f"{path} cannot be read ({error.strerror or error})", REMEDY) from error
    except BROKEN as error:
        raise OptionError(f"{path} holds no whole array of numbers", REMEDY) from error
    try:
        return as_latents(stored, max(1, len(stored)) if stored.ndim else 1, shape).copy()
    except OptionError as error:
        raise OptionError(f"{path}: {error.problem}", error.remedy) from error
