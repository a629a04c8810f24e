"""The door of the Python API: what is meant is taken, what is not is refused with what to say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from bundle_helpers import one_line, toy_manifest, write_bundle

from pitstop import OptionError
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.settings import Settings

FEW = {"steps": 2, "cfg_scale": 1.0}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    bundle = write_bundle(tmp_path_factory.mktemp("asked") / "toy", toy_manifest())
    with Pipeline.from_bundle(bundle, backend="onnxruntime") as opened:
        yield opened


@pytest.mark.parametrize(
    ("asked", "found", "remedy"),
    [
        ({"labels": "12"}, "labels is the text '12', not a list", "such as [3] or ['shoe']"),
        ({"labels": b"12"}, "labels is the text b'12'", "Give a list"),
        ({"labels": 3}, "labels is 3, not a list", "Give a list, such as [3]"),
        ({"labels": None}, "labels is None", "Give a list"),
        ({"labels": (k for k in [1])}, "not a list", "Give `list(labels)`"),
        ({"labels": iter([1])}, "not a list", "Give `list(labels)`"),
        ({"labels": {1, 2}}, "labels is a set, which has no order", "Give a list"),
        ({"labels": {1: 2}}, "labels is a dict, which has no order", "Give a list"),
        ({"labels": [1.0]}, "A label is 1.0", "Give a whole number"),
        ({"labels": [True]}, "A label is True", "Give a whole number"),
        ({"labels": [[1]]}, "A label is [1]", "Give a whole number"),
        ({"labels": np.array([0.5])}, "A label is ", "Give a whole number"),
        ({"labels": np.array(1)}, "not a list", "Give a list"),
        ({"labels": torch.tensor(1)}, "not a list", "Give a list"),
        ({"labels": torch.tensor([[1]])}, "A label is tensor([1])", "Give a whole number"),
        ({"labels": np.array([[1]])}, "A label is array([1])", "Give a whole number"),
        ({"labels": []}, "No labels were given", "Give one label"),
        ({"seeds": 3}, "seeds is 3, not a list", "Give a list, such as [0, 1]"),
        ({"seeds": [1.5]}, "A seed is 1.5", "Give a whole number"),
        ({"seeds": ["1"]}, "A seed is '1'", "Give a whole number"),
        ({"seeds": [None]}, "A seed is None", "Give a whole number"),
        ({"seeds": (k for k in [1])}, "not a list", "Give `list(seeds)`"),
        ({"seeds": torch.tensor([1.5])}, "A seed is tensor(1.5000)", "Give a whole number"),
        ({"seeds": [1, 2]}, "2 seeds were given for 1 labels", "one seed for each"),
        ({"seeds": [-1]}, "The seed is -1", "0 to 18446744073709551615"),
        ({"seeds": [2**64]}, "The seed is 18446744073709551616", "0 to 18446744073709551615"),
        ({"steps": 5.5}, "steps is 5.5", "Give a whole number"),
        ({"steps": "5"}, "steps is '5'", "Give a whole number"),
        ({"steps": True}, "steps is True", "Give a whole number"),
        ({"cfg_scale": "4"}, "The guidance scale is '4'", "at least 0"),
        ({"cfg_scale": float("inf")}, "The guidance scale is inf", "at least 0"),
        ({"eta": "0"}, "eta is '0'", "0 to 1"),
        ({"eta": torch.tensor([0.0])}, "eta is tensor([0.])", "0 to 1"),
        ({"sampler": None}, "sampler is None", "Give a name, such as 'ddim'"),
        ({"spacing": 3}, "spacing is 3", "Give a name, such as 'trailing'"),
    ],
)
def test_what_is_not_meant_is_refused_with_what_to_say(
    pipeline: Pipeline, asked: dict[str, Any], found: str, remedy: str
) -> None:
    with pytest.raises(OptionError) as told:
        pipeline(**{"labels": [0], **FEW, **asked})

    assert found in one_line(told.value)
    assert remedy in told.value.remedy


@pytest.mark.parametrize(
    "asked",
    [
        {"labels": (1,)},
        {"labels": range(1, 2)},
        {"labels": ["shoe"]},
        {"labels": ["1"]},
        {"labels": np.array(["shoe"])},
        {"labels": np.array([1])},
        {"labels": [np.int32(1)]},
        {"labels": torch.tensor([1])},
        {"labels": [torch.tensor(1)]},
        {"seeds": (0,)},
        {"seeds": np.array([0], dtype=np.uint64)},
        {"seeds": torch.tensor([0])},
        {"steps": np.int64(2)},
        {"steps": torch.tensor(2)},
        {"cfg_scale": np.float32(1)},
        {"cfg_scale": 1},
        {"cfg_scale": torch.tensor(1.0)},
    ],
)
def test_the_same_in_other_words_draws_the_same(pipeline: Pipeline, asked: dict[str, Any]) -> None:
    wanted = pipeline([1], **FEW).latents  # type: ignore[arg-type]

    found = pipeline(**{"labels": [1], **FEW, **asked}).latents

    np.testing.assert_array_equal(found, wanted)


def test_none_is_what_is_by_default(pipeline: Pipeline) -> None:
    said, unsaid = (pipeline([1], **more) for more in ({"steps": None, "cfg_scale": None}, {}))  # type: ignore[arg-type]

    assert said.settings == unsaid.settings
    np.testing.assert_array_equal(said.latents, unsaid.latents)


@pytest.mark.parametrize("asked", ["12", [3], ["shoe"], 3, None])
def test_what_is_no_condition_is_refused_with_what_makes_one(
    pipeline: Pipeline, asked: Any
) -> None:
    for draws in (pipeline.requests, pipeline.draw, pipeline.trajectories):
        with pytest.raises(OptionError) as told:
            draws(asked, [0], Settings(2, cfg_scale=1.0))  # type: ignore[operator]
        assert "manifest." in told.value.remedy
