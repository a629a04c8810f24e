from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from bundle_helpers import FakeSession, one_line, toy_manifest

from pitstop import OptionError, Pipeline
from pitstop.runtime.diffusers_words import OTHERWISE


@pytest.fixture
def fake() -> Pipeline:
    return Pipeline(toy_manifest(batch=4), FakeSession(), "fp32")


def test_words_that_mean_the_same_draw_the_same(fake: Pipeline) -> None:
    ours = fake([1, 2], steps=4, cfg_scale=2.0)
    theirs = fake(class_labels=[1, 2], num_inference_steps=4, guidance_scale=2.0)

    np.testing.assert_array_equal(theirs.latents, ours.latents)


@pytest.mark.parametrize("scale", [1, 0.5, 0.0])
def test_a_guidance_scale_below_1_is_no_guidance_as_in_diffusers(
    fake: Pipeline, scale: float
) -> None:
    plain = fake([1], steps=4, cfg_scale=1.0)

    np.testing.assert_array_equal(fake([1], steps=4, guidance_scale=scale).latents, plain.latents)


@pytest.mark.parametrize("word", OTHERWISE)
def test_a_word_with_another_form_is_answered_with_what_to_type(fake: Pipeline, word: str) -> None:
    said: dict[str, Any] = {word: None}
    with pytest.raises(OptionError) as raised:
        fake([0], **said)

    assert one_line(raised.value) == f"{word} is diffusers' word. {OTHERWISE[word]}."


@pytest.mark.parametrize(
    ("said", "found", "remedy"),
    [
        ({"steps": 4, "num_inference_steps": 4}, "both given", "Leave out num_inference_steps"),
        ({"cfg_scal": 4}, "no argument called 'cfg_scal'", "Give `cfg_scale=`"),
        ({"seed": [1]}, "no argument called 'seed'", "Give `seeds=`"),
        ({"zzzz": 4}, "no argument called 'zzzz'", "lists those"),
    ],
)
def test_a_word_that_is_none_is_refused(
    fake: Pipeline, said: dict[str, Any], found: str, remedy: str
) -> None:
    with pytest.raises(OptionError) as raised:
        fake([0], **said)

    assert found in one_line(raised.value)
    assert remedy in one_line(raised.value)
