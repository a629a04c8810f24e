"""Fashion-MNIST as tensors (Xiao et al., 2017; MIT; Debian package ``dataset-fashion-mnist``)."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ... import CheckpointError

FOLDER = Path("/usr/share/datasets/fashion-mnist")
PADDING = 2  # 28 x 28 to 32 x 32, so that windows and patches divide it
CLASSES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle-boot",
)


@dataclass(frozen=True)
class LabelledImages:
    """Images and what they show.

    Attributes:
        images: float32 [count, 1, 32, 32] in [-1, 1]; the background is -1.
        labels: int64 [count], an index into ``CLASSES``.
    """

    images: Tensor
    labels: Tensor


def read_train(folder: Path = FOLDER) -> LabelledImages:
    """Read the 60,000 training images."""
    return _read(folder, "train")


def read_test(folder: Path = FOLDER) -> LabelledImages:
    """Read the 10,000 test images."""
    return _read(folder, "t10k")


def _read(folder: Path, part: str) -> LabelledImages:
    images = _read_idx(folder / f"{part}-images-idx3-ubyte.gz", header=16)
    labels = _read_idx(folder / f"{part}-labels-idx1-ubyte.gz", header=8)
    pixels = torch.from_numpy(images.reshape(-1, 1, 28, 28)).float() / 127.5 - 1.0
    padded = torch.nn.functional.pad(pixels, [PADDING] * 4, value=-1.0)
    return LabelledImages(padded, torch.from_numpy(labels.astype(np.int64)))


def _read_idx(path: Path, header: int) -> np.ndarray:
    if not path.is_file():
        raise CheckpointError(
            f"There is no Fashion-MNIST at {path}",
            "Install the Debian package dataset-fashion-mnist, or name its folder with `--data`",
        )
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), dtype=np.uint8, offset=header).copy()
