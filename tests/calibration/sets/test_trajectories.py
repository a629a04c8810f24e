from __future__ import annotations

import numpy as np
import pytest
from bundle_helpers import LABELS, NULL_CLASS, SHAPE, FakeSession, toy_manifest, with_label
from hypothesis import given
from hypothesis import strategies as st

from pitstop.calibration.sets.calibration_set import ARRAYS, MAX_SEED, CalibrationSet
from pitstop.calibration.sets.trajectories import (
    END_OF_SEEDS,
    FIRST_SEED,
    PARTS,
    SEED_STRIDE,
    draw_set,
)
from pitstop.runtime.bundle.manifest import Manifest
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.noise import START, draw_noise
from pitstop.runtime.sampling.settings import Settings

CLASSES = len(LABELS)


def pipeline(manifest: Manifest | None = None) -> Pipeline:
    return Pipeline(manifest or toy_manifest(batch=4), FakeSession(), "fp32")


def draw(num: int = 6, steps: int = 16, *, seed: int = 0, cfg_scale: float = 1.5) -> CalibrationSet:
    return draw_set(pipeline(), num, Settings(steps, cfg_scale=cfg_scale), seed)


def steps_of(drawn: CalibrationSet) -> np.ndarray:
    """The step of each row, counted from the noisy end: [trajectory, row]."""
    visited = pipeline().sampler(drawn.settings).schedule.timesteps.tolist()
    steps = [visited.index(timestep) for timestep in drawn.timesteps.tolist()]
    return np.array(steps).reshape(-1, min(PARTS, len(visited)))


def test_the_same_seed_draws_the_same_set_and_another_one_shares_no_latent() -> None:
    once, again, other = draw(seed=3), draw(seed=3), draw(seed=4)

    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(once, name), getattr(again, name), strict=True)
    np.testing.assert_array_equal(once.conditions["label"], again.conditions["label"], strict=True)
    np.testing.assert_array_equal(once.timesteps, other.timesteps)
    equal = (once.latents[:, None] == other.latents[None]).all(axis=(2, 3, 4))
    assert not equal.any()


def test_each_trajectory_gives_one_row_of_each_eighth_of_its_steps() -> None:
    steps = steps_of(draw(num=6, steps=40))

    assert steps.shape == (6, PARTS)
    assert (steps // 5 == np.arange(PARTS)).all()


def test_the_places_in_an_eighth_are_all_visited() -> None:
    steps = steps_of(draw(num=12, steps=48))

    assert set(np.bincount(steps.ravel(), minlength=48).tolist()) == {1, 2, 3}


def test_guided_rows_are_half_with_a_class_and_half_without_in_every_eighth() -> None:
    drawn = draw(num=2 * CLASSES)
    labels = drawn.conditions["label"].reshape(-1, PARTS)

    assert ((labels == NULL_CLASS).sum(axis=0) == CLASSES).all()
    assert ((labels == NULL_CLASS).sum(axis=1) == PARTS // 2).all()
    assert np.bincount(labels.ravel()).tolist() == [PARTS] * CLASSES + [PARTS * CLASSES]


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_two_rounds_show_every_class_both_with_and_without_it_in_every_eighth(classes: int) -> None:
    manifest = with_label(toy_manifest(), classes=classes, null=classes, names=("x",) * classes)
    session = FakeSession()
    session.run = lambda feeds: {"prediction": feeds["latent"]}  # type: ignore[method-assign]

    drawn = draw_set(
        Pipeline(manifest, session, "fp32"), 2 * classes, Settings(16, cfg_scale=1.5), 0
    )

    labels = drawn.conditions["label"].reshape(2, classes, PARTS)
    assert ((labels == classes).sum(axis=0) == 1).all()


@pytest.mark.parametrize("null_class", [False, True])
def test_without_guidance_every_row_has_its_class(null_class: bool) -> None:
    unguided = pipeline(toy_manifest(batch=4, null_class=null_class))

    drawn = draw_set(unguided, CLASSES, Settings(8, cfg_scale=1.0), seed=0)

    assert drawn.conditions["label"].tolist() == np.repeat(np.arange(CLASSES), PARTS).tolist()


def test_a_row_is_what_the_denoiser_is_fed_at_that_step() -> None:
    settings = Settings(5, cfg_scale=1.5)
    seeds = [FIRST_SEED + SEED_STRIDE, FIRST_SEED + SEED_STRIDE + 1]
    walked = pipeline().trajectories(toy_manifest().spread(2), seeds, settings)
    fed = np.concatenate([draw_noise(seeds, START, SHAPE)[None], walked[:-1]])

    drawn = draw_set(pipeline(), 2, settings, seed=1)

    # Five steps are five parts: all are kept.
    np.testing.assert_array_equal(drawn.latents, fed.swapaxes(0, 1).reshape(-1, *SHAPE))


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_a_trajectory_shorter_than_eight_steps_gives_all_of_them(steps: int) -> None:
    drawn = draw(num=4, steps=steps)

    assert len(drawn) == 4 * steps
    assert (steps_of(drawn) == np.arange(steps)).all()


@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_the_batch_changes_nothing(batch: int) -> None:
    settings = Settings(9, cfg_scale=1.5)

    drawn = draw_set(pipeline(toy_manifest(batch=batch)), 3, settings, seed=0)

    np.testing.assert_allclose(drawn.latents, draw(num=3, steps=9).latents, atol=1e-6)


def test_every_step_of_every_image_is_told() -> None:
    moved: list[int] = []

    draw_set(pipeline(), 3, Settings(5, cfg_scale=1.5), 0, moved.append)

    assert sum(moved) == 3 * 5


@given(seed=st.integers(0, MAX_SEED), index=st.integers(0, SEED_STRIDE - 1))
def test_no_set_has_a_seed_of_an_image_or_of_a_budgets_trajectories(seed: int, index: int) -> None:
    assert 2**32 < FIRST_SEED + seed * SEED_STRIDE + index < END_OF_SEEDS < 2**64
