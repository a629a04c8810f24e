"""A budget's search on a bundle: what it measures, on which trajectories."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Sequence

import onnx_ir as ir

from ... import NonFiniteError
from ...runtime.backend import SessionOptions
from ...runtime.bundle.folder import Bundle
from ...runtime.distance import relative_l2
from ...runtime.stage import OnStage
from ..observed.ranges import Ranges
from ..qdq.placement import Site
from ..sets.calibration_set import CalibrationSet
from ..sets.feeds import feed
from ..sets.trajectories import END_OF_SEEDS
from ..sets.unbundled import final_latents, median_psnr, predictions, unbundled
from .budget import Log, Search, search

IMAGES = 16  # trajectories of one try
SEEDS = range(END_OF_SEEDS, END_OF_SEEDS + IMAGES)
ROWS = 32  # of held-out trajectories, for one site's sensitivity

Build = Callable[[Sequence[Site]], ir.Model]
"""From the sites that are quantized to the graph."""


def tune(
    bundle: Bundle,
    fp32: ir.Model,
    build: Build,
    sites: Sequence[Site],
    held_out: CalibrationSet,
    *,
    precision: str,
    budget_db: float,
    log: Log,
    options: SessionOptions,
    on_stage: OnStage,
) -> Search:
    """Find the fewest sites to keep, measured on calls and trajectories of the fp32 denoiser.

    Args:
        bundle: With the conditioner.
        fp32: The denoiser.
        build: Makes the graphs that are tried.
        sites: That may be quantized.
        held_out: Rows for the sites' sensitivity, and the settings of the trajectories.
        precision: Of those graphs, its name.
        budget_db: The PSNR to reach.
        log: Remembers what was measured.
        options: How graphs are run.
        on_stage: Told what is measured next.
    """
    exact = dataclasses.replace(options, exact_int8=True)
    batches = list(feed(bundle, held_out.first(ROWS), options))
    settings = held_out.settings
    expected = predictions(fp32, batches, options)
    moved = on_stage(
        f"drawing {len(SEEDS)} trajectories to search with", len(SEEDS), settings.steps
    )
    with unbundled(bundle, fp32, "fp32", options) as pipeline:
        ends = final_latents(pipeline, SEEDS, settings, moved)

    def error_of(chosen: Sequence[Site]) -> float:
        return relative_l2(expected, predictions(build(chosen), batches, exact))

    def psnr_of(chosen: Sequence[Site]) -> float:
        what = f"trajectories with {len(sites) - len(chosen)} of {len(sites)} sites kept"
        moved = on_stage(what, len(SEEDS), settings.steps)
        with unbundled(bundle, build(chosen), precision, exact) as pipeline:
            try:
                found = final_latents(pipeline, SEEDS, settings, moved)
            except NonFiniteError:
                return -math.inf
        return median_psnr(ends, found, bundle.manifest.latent_space)

    return search(sites, budget_db, error_of=error_of, psnr_of=psnr_of, log=log, on_stage=on_stage)


def search_key(
    ranges: Ranges,
    precision: str,
    weight_bits: int,
    base_sha256: str,
    sites: Sequence[Site],
    held_out: CalibrationSet,
) -> str:
    """What a search's measurements depend on, as a hash."""
    rows = {"seed": held_out.seed, "rows": len(held_out)}
    facts = [
        dataclasses.asdict(ranges),
        precision,
        weight_bits,
        base_sha256,
        [site.name for site in sites],
        held_out.settings.as_dict() | rows,
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
