"""The noise that the images of a run start from, read from a ``.npy`` file."""

from __future__ import annotations

import tokenize
from pathlib import Path

import numpy as np

from ... import OptionError
from ..sampling.asked import as_latents
from ..sampling.sampler import Latent

REMEDY = "Name a .npy file of latents, as `numpy.save` writes it"
UNREADABLE = (  # what NumPy raises at a header that is none
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    MemoryError,
    RecursionError,
    SyntaxError,
    tokenize.TokenError,
)


def read_latents(path: Path, shape: tuple[int, int, int]) -> Latent:
    """float32 [image, channel, row, column], of latents of a shape.

    Raises:
        OptionError: There is no such file, or it holds something else.
    """
    if not path.is_file():
        raise OptionError(f"{path} is no file", REMEDY)
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise OptionError(f"{path} cannot be read ({error.strerror or error})", REMEDY) from error
    except UNREADABLE as error:
        raise OptionError(f"{path} holds no whole array of numbers", REMEDY) from error
    if not isinstance(stored, np.ndarray):
        stored.close()
        raise OptionError(f"{path} holds several arrays", REMEDY)
    try:
        return as_latents(stored, max(1, len(stored)) if stored.ndim else 1, shape).copy()
    except OptionError as error:
        raise OptionError(f"{path}: {error.problem}", error.remedy) from error
