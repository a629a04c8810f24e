"""What a calibration set covered, and how far its ranges can be trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...runtime.bundle.manifest import Manifest
from ..qdq.placement import Site
from ..sets.calibration_set import CalibrationSet
from .observe import Observation
from .ranges import ActivationRange

PARTS = 8  # of the training timesteps


@dataclass(frozen=True)
class Coverage:
    """The report beside the ranges.

    Attributes:
        rows: Of the set.
        rows_by_label: By class; ``none`` for the unguided branch.
        rows_by_timestep: In each eighth of the training timesteps, from the clean end.
        saturation: For each site the share of values of held-out trajectories, in [0, 1], that
            its range clips.
        second_seed: For each site the threshold that held-out trajectories give, over the one in
            use: 1 is a scale that does not depend on the seed.
        drift: For each site the mean over rows of their largest absolute value in each eighth of
            the timesteps, over the largest such mean; null where no row fell.
    """

    rows: int
    rows_by_label: Mapping[str, int]
    rows_by_timestep: tuple[int, ...]
    saturation: Mapping[str, float]
    second_seed: Mapping[str, float]
    drift: Mapping[str, tuple[float | None, ...]]


def cover(
    drawn: CalibrationSet,
    manifest: Manifest,
    sites: Sequence[Site],
    observed: Mapping[str, Observation],
    ranges: Mapping[str, ActivationRange],
    held_out: Mapping[str, Observation],
    held_out_thresholds: Mapping[str, float],
) -> Coverage:
    """Look at a set, at what it showed, and at what other trajectories make of its ranges."""
    level = manifest.schedule.noise_level(drawn.timesteps)
    parts = np.minimum((level * PARTS).astype(np.int64), PARTS - 1)
    labels = Counter(manifest.called(drawn.conditions))
    thresholds = {site.name: ranges[site.tensor].threshold for site in sites}
    return Coverage(
        rows=len(drawn),
        rows_by_label=dict(labels),
        rows_by_timestep=tuple(np.bincount(parts, minlength=PARTS).tolist()),
        saturation={
            site.name: held_out[site.tensor].histogram.share_above(thresholds[site.name])
            for site in sites
        },
        second_seed={
            site.name: held_out_thresholds[site.tensor] / (thresholds[site.name] or 1.0)
            for site in sites
        },
        drift={site.name: _drift(observed[site.tensor], parts) for site in sites},
    )


def _drift(observation: Observation, parts: np.ndarray) -> tuple[float | None, ...]:
    rows = observation.amax_by_row
    means = [
        float(rows[parts == part].mean()) if (parts == part).any() else None
        for part in range(PARTS)
    ]
    most = max(mean for mean in means if mean is not None) or 1.0
    return tuple(None if mean is None else mean / most for mean in means)
