"""A calibration set as the denoiser's feeds: batches of the traced size, with their modulations."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...runtime.backend import SessionOptions
from ...runtime.backends import import_backend
from ...runtime.bundle.folder import Bundle
from ...runtime.bundle.manifest import LATENT, TIMESTEP
from ...runtime.opened import conditioner_of
from ...runtime.session import Array
from .calibration_set import CalibrationSet


@dataclass(frozen=True)
class Batch:
    """One denoiser call.

    Attributes:
        rows: Which rows of the set it holds; the call's rows after them are padding.
        feeds: By the names of the denoiser's inputs.
    """

    rows: range
    feeds: dict[str, Array]


def feed(bundle: Bundle, drawn: CalibrationSet, options: SessionOptions) -> Iterator[Batch]:
    """The rows of a set in order, the last batch padded with its last row."""
    manifest = bundle.manifest
    asked = {TIMESTEP: drawn.timesteps.astype(np.float32), **drawn.conditions}
    conditioner = conditioner_of(bundle, import_backend("onnxruntime"), options)
    with conditioner.opened() if conditioner else contextlib.nullcontext(dict) as make:
        for rows, padded in _parts(len(drawn), manifest.batch):
            made = make({name: array[padded] for name, array in asked.items()})
            yield Batch(rows, {LATENT: drawn.latents[padded], **made})


def _parts(length: int, batch: int) -> Iterator[tuple[range, list[int]]]:
    for start in range(0, length, batch):
        rows = range(start, min(start + batch, length))
        yield rows, [min(row, length - 1) for row in range(start, start + batch)]
