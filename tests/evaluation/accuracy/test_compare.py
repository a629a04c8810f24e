from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from bundle_helpers import FakeSession, one_line, toy_manifest

from pitstop import OptionError
from pitstop.evaluation.accuracy.compare import compare
from pitstop.export.goldens import draw_goldens
from pitstop.runtime.bundle.goldens import Goldens
from pitstop.runtime.bundle.precision import PRECISIONS
from pitstop.runtime.distance import psnr
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.settings import Settings
from pitstop.runtime.session import Array


class Perturbed(FakeSession):
    """The toy denoiser with its answers scaled."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = np.float32(factor)

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:  # type: ignore[override]
        return {"prediction": super().run(feeds)["prediction"] * self.factor}  # type: ignore[operator]


@pytest.fixture
def goldens() -> Goldens:
    reference = Pipeline(toy_manifest(batch=4), FakeSession(), "fp32")
    return draw_goldens(reference, Settings(steps=6, cfg_scale=2.0), 3)


def candidate(factor: float) -> Pipeline:
    return Pipeline(toy_manifest(batch=4), Perturbed(factor), "fp32")


def test_psnr_is_20_log_peak_minus_10_log_mse() -> None:
    expected = np.zeros((1, 2, 2), dtype=np.float32)
    found = np.full((1, 2, 2), 0.02, dtype=np.float32)

    assert psnr(expected, found, peak=2.0) == pytest.approx(40.0, abs=1e-4)


def test_equal_answers_are_infinitely_close_and_pass(goldens: Goldens) -> None:
    report = compare(candidate(1.0), goldens, reference="itself")

    assert report.relative_l2_max == 0
    assert report.psnr_db == (np.inf,) * 3
    assert report.step_relative_l2 == (0.0,) * 6
    assert report.passed


def test_an_error_of_one_percent_in_every_call_is_seen_and_fails(goldens: Goldens) -> None:
    report = compare(candidate(1.01), goldens, reference="itself")

    np.testing.assert_allclose(report.relative_l2, 0.01, rtol=1e-3)
    assert len(report.relative_l2) == 5
    assert max(report.step_relative_l2) > 1e-4
    assert not report.passed


def test_a_gate_of_the_users_own_counts(goldens: Goldens) -> None:
    drifted = compare(candidate(1 + 1e-6), goldens, reference="itself")
    median = drifted.psnr_db_median

    assert drifted.passed
    for gate, passed in ((median - 1, True), (median + 1, False)):
        assert dataclasses.replace(drifted, min_psnr_db=gate).passed is passed


def test_a_call_above_its_gate_fails_however_good_the_images_are(goldens: Goldens) -> None:
    report = compare(candidate(1.0), goldens, reference="itself")

    assert not dataclasses.replace(report, relative_l2=(0.0, 2e-5)).passed
    assert not dataclasses.replace(report, relative_l2=(float("nan"),)).passed


def test_every_precision_has_a_gate() -> None:
    gates = {name: precision.min_psnr_db for name, precision in PRECISIONS.items()}
    assert gates == {"fp32": 60.0, "fp16": 60.0, "bf16": 48.0, "int8": 40.0}


def test_the_gate_of_a_call_is_the_users_where_one_is_given(goldens: Goldens) -> None:
    for gate, passed in ((0.02, True), (0.005, False)):
        report = compare(
            candidate(1.01), goldens, reference="it", min_psnr_db=0, max_relative_l2=gate
        )
        assert report.passed is passed


@pytest.mark.parametrize(
    ("gate", "option"), [("min_psnr_db", "--min-psnr"), ("max_relative_l2", "--max-rel-l2")]
)
def test_a_gate_that_is_no_number_is_refused(goldens: Goldens, gate: str, option: str) -> None:
    with pytest.raises(OptionError) as caught:
        compare(candidate(1.0), goldens, reference="it", **{gate: float("nan")})  # type: ignore[arg-type]

    assert f"`{option}`" in one_line(caught.value)


def test_a_candidate_that_leaves_the_finite_numbers_fails_and_says_where(goldens: Goldens) -> None:
    report = compare(candidate(float("inf")), goldens, reference="itself")

    assert not report.passed
    assert report.failure is not None
    assert report.failure.startswith("Step 1 of 6")
    assert np.isnan(report.psnr_db_median)
    assert report.step_relative_l2 == (np.inf,) * 6


def test_psnr_and_similarity_fall_with_the_error(goldens: Goldens) -> None:
    near, far = (compare(candidate(factor), goldens, reference="itself") for factor in (1.001, 1.1))

    assert len(near.step_psnr_db) == 6
    assert near.step_psnr_db[-1] == near.psnr_db_median > far.psnr_db_median
    assert near.ssim_median is not None
    assert far.ssim_median is not None
    assert 1 > near.ssim_median > far.ssim_median


def test_the_worst_image_comes_first_and_one_that_is_no_number_before_it(goldens: Goldens) -> None:
    report = compare(candidate(1.01), goldens, reference="itself")

    sorted_ = dataclasses.replace(report, psnr_db=(50.0, np.nan, np.inf, 40.0))

    assert sorted_.worst_first == [1, 3, 0, 2]
