from __future__ import annotations

import numpy as np
import pytest
from bundle_helpers import NULL_CLASS, FakeSession, toy_manifest, toy_prediction

from pitstop.export.goldens import draw_goldens
from pitstop.runtime.bundle.goldens import Goldens
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.noise import START, draw_noise
from pitstop.runtime.sampling.settings import Settings

STEPS = 9


def drawn(*, null_class: bool = True, steps: int = STEPS, images: int = 3) -> Goldens:
    manifest = toy_manifest(batch=4, null_class=null_class)
    scale = 2.0 if null_class else 1.0
    return draw_goldens(
        Pipeline(manifest, FakeSession(), "fp32"), Settings(steps, cfg_scale=scale), images
    )


def test_five_calls_go_from_the_first_step_to_the_last() -> None:
    goldens = drawn()

    timesteps = goldens.timesteps.tolist()
    assert len(timesteps) == 5
    assert timesteps == sorted(timesteps, reverse=True)
    assert timesteps[-1] == 0


def test_a_call_is_fed_what_the_trajectory_held_at_its_timestep() -> None:
    goldens = drawn()
    seeds = goldens.seeds.tolist()
    noise = draw_noise(seeds, START, toy_manifest().latent_shape)

    np.testing.assert_array_equal(goldens.latents[0][:3], noise)
    np.testing.assert_array_equal(goldens.latents[0][3], noise[0])
    for call, step in enumerate([2, 4, 6, 8], start=1):
        np.testing.assert_array_equal(goldens.latents[call][:3], goldens.trajectory[step - 1])


def test_a_prediction_is_the_models_answer_to_its_call() -> None:
    goldens = drawn()

    for call in goldens.calls:
        labels = call.conditions["label"].tolist()
        expected = toy_prediction(call.latent, call.timestep, labels)
        np.testing.assert_array_equal(call.prediction, expected)


def test_labels_are_classes_and_the_null_class_in_turn() -> None:
    assert drawn().conditions["label"].tolist() == [[0, NULL_CLASS, 2, NULL_CLASS]] * 5
    assert set(drawn(null_class=False).conditions["label"].ravel().tolist()) <= {0, 1, 2}


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_fewer_steps_than_calls_are_asked_once_each(steps: int) -> None:
    goldens = drawn(steps=steps, images=1)

    assert len(set(goldens.timesteps.tolist())) == len(goldens.predictions) == steps
    assert goldens.trajectory.shape == (steps, 1, *toy_manifest().latent_shape)


def test_trajectories_take_wider_calls_and_single_calls_the_graphs_batch() -> None:
    session, settings = FakeSession(), Settings(4, cfg_scale=2.0)
    manifest = toy_manifest(batch=2)

    goldens = draw_goldens(Pipeline(manifest, session, "fp32"), settings, 8, rows=16)

    assert [len(call["latent"]) for call in session.calls] == [16] * 4 + [2] * 4
    narrow = draw_goldens(Pipeline(manifest, FakeSession(), "fp32"), settings, 8)
    np.testing.assert_array_equal(goldens.trajectory, narrow.trajectory)
    assert goldens.told["label"].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
