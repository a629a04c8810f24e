"""A calibration set as the denoiser's feeds: batches of the traced size, with their modulations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..runtime.backend import Array, SessionOptions
from ..runtime.backends import import_backend
from ..runtime.bundle.folder import Bundle
from ..runtime.bundle.manifest import CONDITIONER
from ..runtime.sampling.conditioning import ask_conditioner
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
    spec = manifest.graphs.get(CONDITIONER)
    if spec is None:
        for rows, padded in _parts(len(drawn), manifest.batch):
            timesteps = drawn.timesteps[padded].astype(np.float32)
            feeds: dict[str, Array] = {"timestep": timesteps, "label": drawn.labels[padded]}
            yield Batch(rows, {"latent": drawn.latents[padded], **feeds})
        return
    backend = import_backend("onnxruntime")
    conditioner = backend.open_graph(bundle.path(spec.path), spec, options)
    try:
        for rows, padded in _parts(len(drawn), manifest.batch):
            modulation = ask_conditioner(
                conditioner, spec, drawn.timesteps[padded], drawn.labels[padded]
            )
            yield Batch(rows, {"latent": drawn.latents[padded], "modulation": modulation})
    finally:
        conditioner.close()


def _parts(length: int, batch: int) -> Iterator[tuple[range, list[int]]]:
    for start in range(0, length, batch):
        rows = range(start, min(start + batch, length))
        yield rows, [min(row, length - 1) for row in range(start, start + batch)]
