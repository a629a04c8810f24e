"""A denoiser that is not in a bundle yet, run like one that is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from .. import NonFiniteError
from ..graphs.graph_file import opened
from ..runtime.backend import SessionOptions
from ..runtime.backends import import_backend
from ..runtime.bundle.folder import Bundle
from ..runtime.bundle.goldens import read_goldens
from ..runtime.bundle.manifest import CONDITIONER
from ..runtime.distance import latent_peak, psnr, relative_l2
from ..runtime.pipeline import Pipeline, Settings
from ..runtime.sampling.conditioning import ConditionedSession
from ..runtime.sampling.sampler import Latent
from .feeds import Batch
from .trajectories import spread_classes


@contextlib.contextmanager
def candidate(
    bundle: Bundle, model: ir.Model, precision: str, options: SessionOptions
) -> Iterator[Pipeline]:
    """The bundle's pipeline with another denoiser."""
    spec = bundle.manifest.graphs.get(CONDITIONER)
    backend = import_backend("onnxruntime")
    with opened(model, options) as denoiser:
        if spec is None:
            yield Pipeline(bundle.manifest, denoiser, precision)
            return
        path = bundle.path(spec.path)
        session = ConditionedSession(
            lambda: backend.open_graph(path, spec, options), spec, denoiser
        )
        yield Pipeline(bundle.manifest, session, precision)


def predictions(
    model: ir.Model, batches: Iterable[Batch], options: SessionOptions
) -> npt.NDArray[Any]:
    """What a denoiser answers to whole batches, float32 [row, output channel, row, column]."""
    with opened(model, options) as session:
        return np.concatenate([session.run(batch.feeds)["prediction"] for batch in batches])


def final_latents(pipeline: Pipeline, seeds: Sequence[int], settings: Settings) -> Latent:
    """Where the trajectories of ``seeds`` end, their classes evenly spread."""
    classes = spread_classes(len(seeds), pipeline.manifest.num_classes)
    last: Latent = pipeline.trajectories(classes, seeds, settings)[-1]
    return last


def median_psnr(expected: Latent, found: Latent, latent_space: str) -> float:
    """Over images, in dB."""
    pairs = zip(expected, found, strict=True)
    return float(np.median([psnr(a, b, latent_peak(a, latent_space)) for a, b in pairs]))


def golden_error(bundle: Bundle, model: ir.Model, options: SessionOptions) -> float:
    """The largest relative L2 of the bundle's golden calls, against PyTorch in fp32.

    Raises:
        NonFiniteError: An answer is not finite.
    """
    goldens = read_goldens(bundle.path(bundle.manifest.goldens))
    calls = zip(
        goldens.latents, goldens.timesteps, goldens.labels, goldens.predictions, strict=True
    )
    with candidate(bundle, model, "int8", options) as pipeline:
        errors = [
            relative_l2(expected, pipeline.predict(latent, float(timestep), labels))
            for latent, timestep, labels, expected in calls
        ]
    if not np.isfinite(errors).all():
        raise NonFiniteError(
            "The int8 denoiser gives numbers that are not finite",
            "Use `--base fp32`, or another `--method`",
        )
    return max(errors)
