"""What a calibration said of itself, for the report: drift, clipping, the budget's points."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ... import BundleError
from ...calibration.search.budget import Point, Search
from ...runtime.bundle.folder import Bundle

COVERAGE = "calibration/coverage.json"
BUDGET = "calibration/budget.json"


@dataclass(frozen=True)
class Calibration:
    """How an int8 denoiser's ranges were found.

    Attributes:
        rows: Latents of the calibration set.
        drift: For each site its largest absolute value in each part of the timesteps, from the
            clean end, over the largest of them; None where the set had no row.
        saturation_max: The largest share of values that a range clips on held-out trajectories.
        second_seed: The least and the largest threshold of held-out trajectories over those in use.
        points: Of the budget's search that no other point beats: sites in high precision, and dB.
        sites: How many sites there are.
        budget_db: What was asked for, or None.
    """

    rows: int
    drift: Mapping[str, tuple[float | None, ...]]
    saturation_max: float
    second_seed: tuple[float, float]
    points: tuple[tuple[int, float], ...]
    sites: int
    budget_db: float | None


def read_calibration(bundle: Bundle) -> Calibration | None:
    """What is in the bundle; None where its ranges came from elsewhere, or it has no int8."""
    if COVERAGE not in bundle.manifest.files:
        return None
    try:
        return _read(bundle)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(
            f"{bundle.path(COVERAGE).parent} holds no calibration's figures "
            f"({type(error).__name__}: {error})",
            "Calibrate again with `pitstop calibrate`",
        ) from error


def _read(bundle: Bundle) -> Calibration:
    coverage = json.loads(bundle.path(COVERAGE).read_text(encoding="utf-8"))
    budget = None
    if BUDGET in bundle.manifest.files:
        budget = json.loads(bundle.path(BUDGET).read_text(encoding="utf-8"))
    ratios = [ratio for ratio in coverage["second_seed"].values() if ratio is not None]
    clipped = [share for share in coverage["saturation"].values() if share is not None]
    return Calibration(
        rows=coverage["rows"],
        drift={site: tuple(parts) for site, parts in coverage["drift"].items()},
        saturation_max=max(clipped, default=0.0),
        second_seed=(min(ratios, default=1.0), max(ratios, default=1.0)),
        points=_best(budget) if budget else (),
        sites=len(coverage["drift"]),
        budget_db=budget["budget_db"] if budget else None,
    )


def _best(budget: Mapping[str, Any]) -> tuple[tuple[int, float], ...]:
    """The points of a search that no other beats: how many sites were kept, and dB."""
    points = (
        Point(tuple(point["kept"]), -math.inf if point["psnr_db"] is None else point["psnr_db"])
        for point in budget["points"]
    )
    best = Search(budget["budget_db"], budget["errors"], tuple(points)).pareto
    return tuple((len(point.kept), point.psnr_db) for point in best)
