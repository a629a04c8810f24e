"""Write a data set in the files that Fashion-MNIST comes in."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np


def write_part(folder: Path, part: str, pixels: np.ndarray, labels: np.ndarray) -> None:
    """Write the ``train`` or ``t10k`` part: bytes [count, 28, 28] and [count]."""
    _write(folder / f"{part}-images-idx3-ubyte.gz", pixels)
    _write(folder / f"{part}-labels-idx1-ubyte.gz", labels)


def _write(path: Path, values: np.ndarray) -> None:
    """An idx file: type and number of axes, the length of each, then the bytes."""
    header = bytes([0, 0, 8, values.ndim])
    header += b"".join(length.to_bytes(4, "big") for length in values.shape)
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))
