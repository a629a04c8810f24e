from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from bundle_helpers import LABELS, FakeSession, one_line, toy_manifest, write_bundle

from pitstop import OptionError
from pitstop.runtime import Pipeline
from pitstop.runtime.sampling.settings import Settings


def png(pipeline: Pipeline, label: str, seed: int) -> bytes:
    buffer = io.BytesIO()
    pipeline([label], seeds=[seed], steps=5).images[0].save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def fake() -> Pipeline:
    return Pipeline(toy_manifest(batch=4), FakeSession(), "fp32")


@pytest.mark.parametrize("split", [False, True])
def test_an_image_is_the_same_whatever_the_batch(tmp_path: Path, split: bool) -> None:
    bundles = [
        write_bundle(tmp_path / str(batch), toy_manifest(batch=batch, split=split))
        for batch in (1, 8)
    ]
    labels, seeds = [LABELS[k % 3] for k in range(8)], list(range(10, 18))
    one, eight = (Pipeline.from_bundle(bundle) for bundle in bundles)

    together = eight(labels, seeds=seeds, steps=5)
    apart = [one([label], seeds=[seed], steps=5) for label, seed in zip(labels, seeds, strict=True)]

    alone = np.concatenate([drawn.latents for drawn in apart])
    # Kernels may sum in another order for another batch: float32's last bits, no 8-bit level.
    np.testing.assert_allclose(together.latents, alone, rtol=0, atol=1e-5)
    levels = [np.asarray(picture) for drawn in apart for picture in drawn.images]
    np.testing.assert_array_equal(levels, [np.asarray(picture) for picture in together.images])


def test_two_runs_give_the_same_bytes(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", toy_manifest(split=True))

    first, second = (png(Pipeline.from_bundle(bundle), "shoe", 7) for _ in range(2))

    assert first == second
    assert first != png(Pipeline.from_bundle(bundle), "shoe", 8)


def test_split_and_whole_bundles_draw_the_same(tmp_path: Path) -> None:
    whole, split = (
        Pipeline.from_bundle(write_bundle(tmp_path / name, toy_manifest(split=name == "split")))
        for name in ("whole", "split")
    )

    expected, found = (drawer(list(LABELS), steps=6).latents for drawer in (whole, split))

    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_labels_go_by_number_and_by_name(fake: Pipeline) -> None:
    numbered, named = (fake(labels, steps=3).latents for labels in ([2, "0"], ["bag", "shirt"]))

    np.testing.assert_array_equal(numbered, named)


def test_seeds_count_up_from_0_where_none_are_given(fake: Pipeline) -> None:
    default, given = (fake([0, 1, 2], seeds=seeds, steps=3).latents for seeds in (None, [0, 1, 2]))

    np.testing.assert_array_equal(default, given)


def test_guidance_takes_one_call_a_step_for_half_the_batch(fake: Pipeline) -> None:
    session = fake.session
    assert isinstance(session, FakeSession)

    fake([0, 1], steps=3, cfg_scale=2.0)
    guided = len(session.calls)
    fake([0, 1, 2, 0], steps=3, cfg_scale=1.0)

    assert (guided, len(session.calls) - guided) == (3, 3)


def test_groups_hold_as_many_images_as_one_call_takes(fake: Pipeline) -> None:
    guided = fake.groups(5, Settings(cfg_scale=2.0))
    plain = fake.groups(5, Settings(cfg_scale=1.0))

    assert guided == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert plain == [slice(0, 4), slice(4, 5)]


@pytest.mark.parametrize(
    ("arguments", "found", "valid"),
    [
        ({"labels": ["sandal"]}, "sandal", "shirt, shoe, bag"),
        ({"labels": [3]}, "3", "0 to 2"),
        ({"labels": [-1]}, "-1", "0 to 2"),
        ({"labels": []}, "No labels", "one label"),
        ({"labels": [0], "seeds": [1, 2]}, "2 seeds", "one seed"),
        ({"labels": [0], "seeds": [-1]}, "-1", "from 0 to"),
        ({"labels": [0], "seeds": [2**64]}, str(2**64), str(2**64 - 1)),
        ({"labels": [0], "steps": 0}, "0 sampling steps", "1 to 1000"),
        ({"labels": [0], "steps": 1001}, "1001 sampling steps", "1 to 1000"),
        ({"labels": [0], "sampler": "ddmi"}, "ddmi", "ddpm, ddim, dpmpp_2m"),
        ({"labels": [0], "cfg_scale": float("nan")}, "nan", "at least 0"),
        ({"labels": [0], "cfg_scale": -1.0}, "-1.0", "at least 0"),
        ({"labels": [0], "eta": 2.0}, "2.0", "0"),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_valid(
    fake: Pipeline, arguments: dict[str, object], found: str, valid: str
) -> None:
    with pytest.raises(OptionError) as raised:
        fake(**arguments)  # type: ignore[arg-type]

    message = one_line(raised.value)
    assert found in message
    assert valid in message


def test_an_unknown_precision_lists_those_of_the_bundle(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")

    with pytest.raises(OptionError, match=r"no fp16 denoiser.*fp32"):
        Pipeline.from_bundle(bundle, precision="fp16")


def test_an_unknown_backend_lists_the_valid_ones(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")

    with pytest.raises(OptionError, match=r"'trt'.*auto, onnxruntime"):
        Pipeline.from_bundle(bundle, backend="trt")
