"""Runs into a folder that begin with a picture: told in every image, and not mixed with others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bundle_helpers import toy_manifest, write_bundle
from cli_helpers import refused, run
from PIL import Image

from pitstop import OptionError
from pitstop.runtime.image import read_parameters
from pitstop.runtime.jobs import RunReport, draw_images
from pitstop.runtime.jobs.plan import plan_images
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.settings import Settings

SETTINGS = Settings(steps=10, cfg_scale=2.0)


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return Pipeline.from_bundle(write_bundle(tmp_path / "bundle", toy_manifest(batch=4)))


def save(path: Path, seed: int, side: int = 8) -> Path:
    levels = np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)
    Image.fromarray(levels).save(path)
    return path


def save_mask(path: Path) -> Path:
    levels = np.zeros((8, 8), np.uint8)
    levels[:4] = 255
    Image.fromarray(levels).save(path)
    return path


def draw(pipeline: Pipeline, out: Path, *begins: object, num: int = 3) -> RunReport:
    init = pipeline.begin_with(*begins)  # type: ignore[arg-type]
    return draw_images(
        pipeline, plan_images(pipeline.manifest, [], num, 5), SETTINGS, out, init=init
    )


def test_the_last_steps_are_taken_and_every_image_says_what_it_began_with(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = draw(pipeline, out, save(tmp_path / "a.png", 1), 0.5, save_mask(tmp_path / "m.png"))

    assert (done.drawn, done.steps, done.calls) == (3, 10, 5)  # two groups of five steps
    told = read_parameters(out / "000005-shirt.png")
    assert told is not None
    assert (told["steps"], told["strength"]) == (10, 0.5)
    assert len(told["init_sha256"]) == len(told["mask_sha256"]) == 64
    original = np.asarray(Image.open(tmp_path / "a.png"))
    for path in sorted(out.glob("0*.png")):
        np.testing.assert_array_equal(np.asarray(Image.open(path))[4:], original[4:])


def test_a_run_goes_on_with_the_same_picture_whatever_its_file_is_called(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    draw(pipeline, tmp_path / "out", save(tmp_path / "a.png", 1), num=2)
    again = draw(pipeline, tmp_path / "out", save(tmp_path / "b.bmp", 1))
    assert (again.drawn, again.kept) == (1, 2)


@pytest.mark.parametrize(
    ("begins", "differs"),
    [
        (("other.png",), "init_sha256"),
        (("a.png", 0.5), "strength 0.8"),
        (("a.png", 0.8, "m.png"), "no mask_sha256"),
        ((None,), "strength 0.8"),
    ],
)
def test_a_folder_does_not_mix_what_images_begin_with(
    pipeline: Pipeline, tmp_path: Path, begins: tuple[object, ...], differs: str
) -> None:
    save(tmp_path / "a.png", 1)
    save(tmp_path / "other.png", 2)
    save_mask(tmp_path / "m.png")
    draw(pipeline, tmp_path / "out", tmp_path / "a.png")
    there = [tmp_path / each if isinstance(each, str) else each for each in begins]

    with pytest.raises(OptionError, match=differs):
        draw(pipeline, tmp_path / "out", *there)


def test_the_command_begins_with_a_picture_and_keeps_what_the_mask_does(tmp_path: Path) -> None:
    bundle, out = write_bundle(tmp_path / "bundle"), tmp_path / "out"
    begins = [
        "--init",
        save(tmp_path / "a.png", 1, side=32),
        "--mask",
        save_mask(tmp_path / "m.png"),
    ]

    done = run("generate", bundle, "--num", 2, "--steps", 6, "--calls", 3, *begins,
               "--strength", 0.7, "--out", out)  # fmt: skip

    assert done.exit_code == 0, done.output
    assert "forecasts are fitted for whole runs" in " ".join(done.output.split())
    drawn = [np.asarray(Image.open(path)) for path in sorted(out.glob("0*.png"))]
    np.testing.assert_array_equal(drawn[0][4:], drawn[1][4:])
    assert (drawn[0][:4] != drawn[1][:4]).any()


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--strength", "0.5"], "A strength was given, but no image"),
        (["--mask", "m.png"], "A mask was given, but no image"),
        (["--init", "no.png"], "There is no image at no.png"),
        (["--init", "a.png", "--strength", "2"], "The strength is 2"),
        (["--init", "a.png", "--strength", "0.1", "--steps", "5"], "leaves none of 5 steps"),
        (["--init", "a.png", "--strength", "0.5", "--steps", "8", "--calls", "6"], "leaves 4 of 8"),
    ],
)
def test_what_no_run_can_begin_with_is_one_line(
    options: list[str], found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    save(tmp_path / "a.png", 1)
    monkeypatch.chdir(tmp_path)

    assert found in refused("generate", bundle, "--out", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()
