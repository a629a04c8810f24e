from __future__ import annotations

import numpy as np
import pytest
from bundle_helpers import FakeSession, toy_manifest

from pitstop.export.goldens import draw_goldens, golden_settings
from pitstop.export.parity import Parity, check_parity
from pitstop.runtime.distance import relative_l2
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.settings import Settings


def test_it_is_the_norm_of_the_difference_over_the_norm_of_the_expected() -> None:
    expected = np.array([3.0, 0.0, 4.0], dtype=np.float32)
    found = np.array([3.0, 0.3, 4.4], dtype=np.float32)

    assert relative_l2(expected, found) == pytest.approx(0.5 / 5, rel=1e-6)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_an_answer_that_is_not_finite_is_infinitely_far(wrong: float) -> None:
    assert relative_l2(np.ones(3), np.array([1.0, wrong, 1.0])) == np.inf


def test_zeros_are_0_from_zeros_and_infinitely_far_from_the_rest() -> None:
    assert relative_l2(np.zeros(3), np.zeros(3)) == 0
    assert relative_l2(np.zeros(3), np.array([0, 1e-30, 0])) == np.inf


def test_squares_beyond_float32_do_not_overflow() -> None:
    expected = np.full(4, 1e30, dtype=np.float32)

    assert relative_l2(expected, 1.5 * expected) == pytest.approx(0.5, rel=1e-6)


def test_nothing_is_near_to_what_is_not_finite() -> None:
    assert relative_l2(np.array([1.0, np.nan]), np.ones(2)) == np.inf
    assert relative_l2(np.array([1.0, np.inf]), np.array([1.0, np.inf])) == np.inf


@pytest.mark.parametrize(
    ("errors", "passed"),
    [
        ((0.0, 1e-5), True),
        ((1.1e-5, 0.0), False),
        ((np.nan,), False),
        ((np.inf,), False),
        ((1e-6, np.nan), False),
        ((np.nan, 1e-6), False),
    ],
)
def test_the_worst_call_decides(errors: tuple[float, ...], passed: bool) -> None:
    assert Parity(errors, 1e-5).passed is passed


@pytest.mark.parametrize("errors", [(1e-6, np.nan, np.inf), (np.nan, 1e-6, np.inf)])
def test_the_worst_of_all_is_what_is_no_number(errors: tuple[float, ...]) -> None:
    assert np.isnan(Parity(errors, 1e-5).worst)


def test_every_golden_call_is_asked_with_its_own_inputs() -> None:
    reference = Pipeline(toy_manifest(batch=4), FakeSession(), "fp32")
    goldens = draw_goldens(reference, Settings(steps=9, cfg_scale=2.0), 3)
    session = FakeSession()

    parity = check_parity(Pipeline(toy_manifest(batch=4), session, "fp32"), goldens, 1e-5)

    assert parity.relative_l2 == (0.0,) * 5
    for call, timestep, latent in zip(
        session.calls, goldens.timesteps, goldens.latents, strict=True
    ):
        assert set(call["timestep"].tolist()) == {timestep}
        np.testing.assert_array_equal(call["latent"], latent)


def test_a_model_without_a_null_class_has_goldens_without_guidance() -> None:
    assert golden_settings(toy_manifest()).cfg_scale > 1
    assert golden_settings(toy_manifest(null_class=False)).cfg_scale == 1
