from __future__ import annotations

import numpy as np
import pytest
from bundle_helpers import NULL_CLASS, some_latent, toy_manifest, with_label

from pitstop.calibration.observed.coverage import Coverage, cover
from pitstop.calibration.observed.histogram import Histogram
from pitstop.calibration.observed.observe import Observation
from pitstop.calibration.observed.ranges import ActivationRange
from pitstop.calibration.qdq.placement import Site
from pitstop.calibration.sets.calibration_set import CalibrationSet
from pitstop.runtime.bundle.manifest import Manifest
from pitstop.runtime.sampling.settings import Settings

SITES = [Site("layer.0", "x", "y"), Site("layer.1", "h", "z")]
TIMESTEPS = np.array([999, 990, 500, 130, 124, 0])
LABELS = np.array([0, NULL_CLASS, 2, NULL_CLASS, 0, NULL_CLASS])


def observation(values: list[float], by_row: list[float] | None = None) -> Observation:
    histogram = Histogram.empty().add(np.array(values, np.float32))
    rows = np.array(by_row or [1.0] * 6, np.float32)
    return Observation(histogram, rows, np.zeros(1, np.float32))


def look(manifest: Manifest | None = None) -> Coverage:
    drawn = CalibrationSet(some_latent(6), TIMESTEPS, {"label": LABELS}, {}, Settings(6), seed=0)
    return cover(
        drawn,
        manifest or toy_manifest(),
        SITES,
        observed={
            "x": observation([1.0], [8.0, 4.0, 3.0, 1.0, 2.0, 4.0]),
            "h": observation([0.0], [0.0] * 6),
        },
        ranges={"x": ActivationRange(2.0, 4.0, 6), "h": ActivationRange(0.0, 0.0, 6)},
        held_out={"x": observation([1.0, 1.0, 3.0, 2100.0]), "h": observation([0.0])},
        held_out_thresholds={"x": 3.0, "h": 0.0},
    )


def test_rows_are_counted_by_class_and_by_eighth_of_the_timesteps() -> None:
    covered = look()

    assert covered.rows == 6
    assert covered.rows_by_label == {"shirt": 2, "bag": 1, "none": 3}
    assert covered.rows_by_timestep == (2, 1, 0, 0, 1, 0, 0, 2)


def test_classes_without_names_go_by_number() -> None:
    covered = look(with_label(toy_manifest(), names=()))

    assert covered.rows_by_label == {"0": 2, "2": 1, "none": 3}


def test_saturation_is_the_share_of_unseen_values_above_the_threshold() -> None:
    assert look().saturation == {"layer.0": 0.5, "layer.1": 0.0}


def test_the_second_seeds_threshold_is_told_as_a_share_of_the_one_in_use() -> None:
    assert look().second_seed == {"layer.0": 1.5, "layer.1": 0.0}


def test_drift_is_the_mean_over_rows_in_each_eighth_over_the_largest_such_mean() -> None:
    drift = look().drift

    assert drift["layer.0"] == pytest.approx((0.5, 1 / 6, None, None, 0.5, None, None, 1.0))
    assert drift["layer.1"] == (0.0, 0.0, None, None, 0.0, None, None, 0.0)
