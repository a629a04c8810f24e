"""A denoiser that is not in a bundle yet, run like one that is."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ... import NonFiniteError
from ...graphs.graph_file import opened
from ...runtime.backend import SessionOptions
from ...runtime.backends import Choice, import_backend
from ...runtime.bundle.folder import Bundle
from ...runtime.bundle.goldens import read_goldens
from ...runtime.distance import latent_peak, psnr, relative_l2
from ...runtime.opened import OpenedBundle
from ...runtime.pipeline import Pipeline
from ...runtime.sampling.sampler import Latent
from ...runtime.sampling.settings import Settings
from ...runtime.stage import Moved, OnStage, unheard
from .feeds import Batch


@contextlib.contextmanager
def unbundled(
    bundle: Bundle, model: ir.Model, precision: str, options: SessionOptions
) -> Iterator[Pipeline]:
    """The bundle's pipeline with another denoiser."""
    chosen = Choice("onnxruntime", import_backend("onnxruntime"))
    with (
        opened(model, options) as denoiser,
        OpenedBundle(bundle, precision, denoiser, chosen, options) as others,
    ):
        yield Pipeline.of(others)


def predictions(
    model: ir.Model, batches: Iterable[Batch], options: SessionOptions
) -> npt.NDArray[Any]:
    """What a denoiser answers to whole batches, float32 [row, output channel, row, column]."""
    with opened(model, options) as session:
        return np.concatenate([session.run(batch.feeds)["prediction"] for batch in batches])


def final_latents(
    pipeline: Pipeline, seeds: Sequence[int], settings: Settings, moved: Moved
) -> Latent:
    """Where the trajectories of ``seeds`` end, their conditions evenly spread."""
    return pipeline.draw(pipeline.manifest.spread(len(seeds)), seeds, settings, moved)


def median_psnr(expected: Latent, found: Latent, latent_space: str) -> float:
    """Over images, in dB."""
    pairs = zip(expected, found, strict=True)
    return float(np.median([psnr(a, b, latent_peak(a, latent_space)) for a, b in pairs]))


def golden_error(
    bundle: Bundle,
    model: ir.Model,
    precision: str,
    options: SessionOptions,
    on_stage: OnStage = unheard,
) -> float:
    """The largest relative L2 of the bundle's golden calls, against PyTorch in fp32.

    Raises:
        NonFiniteError: An answer is not finite.
    """
    goldens = read_goldens(bundle.path(bundle.manifest.goldens))
    moved = on_stage(f"comparing the {precision} denoiser with PyTorch", len(goldens.timesteps))
    errors = []
    exact = dataclasses.replace(options, exact_int8=True)
    with unbundled(bundle, model, precision, exact) as pipeline:
        for call in goldens.calls:
            found = pipeline.predict(call.latent, call.timestep, call.conditions)
            errors.append(relative_l2(call.prediction, found))
            moved(1)
    if not np.isfinite(errors).all():
        raise NonFiniteError(
            f"The {precision} denoiser gives numbers that are not finite",
            "Use `--base fp32`, or another `--method`",
        )
    return max(errors)
