from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_helpers import FakeSession, some_latent, toy_manifest, with_label, write_bundle
from PIL import Image

from pitstop import Pipeline, Samples, Settings
from pitstop.runtime.bundle.folder import open_bundle
from pitstop.runtime.shown import listed, shown

NAMES = tuple(f"class number {index}, of a long name" for index in range(1000))


def on_one_screen(value: object) -> str:
    lines = repr(value).splitlines()
    assert len(lines) <= 20
    assert max(map(len, lines)) <= 80, max(lines, key=len)
    return repr(value)


@pytest.mark.parametrize("long", [False, True])
def test_what_users_hold_shows_itself_on_one_screen(tmp_path: Path, long: bool) -> None:
    folder = tmp_path / ("long" * 40 if long else "short")
    bundle = open_bundle(write_bundle(folder, toy_manifest()))
    manifest = with_label(bundle.manifest, classes=1000, null=1000, names=NAMES if long else ())
    pipeline = Pipeline(manifest, FakeSession(), "fp32")
    drawn = Samples(
        np.zeros((300, 4, 32, 32), np.float32), "vae", None, tuple(range(300)), NAMES[:300],
        Settings(cfg_interval="0:1", cfg_schedule="power-cosine", cfg_channels=3, noise="torch"),
    )  # fmt: skip

    assert "samplers  ddpm, ddim, dpmpp_2m" in on_one_screen(pipeline)
    assert "graphs    denoiser.fp32" in on_one_screen(manifest)
    assert "Manifest: toy" in on_one_screen(bundle)
    assert "cfg_schedule='power-cosine:4.0', cfg_channels=3, noise='torch'" in " ".join(
        on_one_screen(drawn).split()
    )


def test_a_name_in_a_bundle_commands_no_terminal() -> None:
    manifest = toy_manifest()
    model = dataclasses.replace(manifest.model, name="a\x1b[2J\nb", provenance="c\x1b]0;d\x07")

    said = repr(dataclasses.replace(manifest, model=model))

    assert not set(said) & {"\x1b", "\x07"}
    assert said.startswith("Manifest: a�[2J�b")


def test_a_list_says_how_many_more_there_are() -> None:
    assert listed(range(5), 3) == "0, 1, 2, … 2 more"
    assert shown("Title", {"none": "", "some": "x"}) == "Title\n  some      x"


def test_labels_and_samplers_are_those_of_the_model() -> None:
    pipeline = Pipeline(toy_manifest(), FakeSession(), "fp32")
    unnamed = Pipeline(with_label(toy_manifest(), names=()), FakeSession(), "fp32")

    assert pipeline.labels == ["shirt", "shoe", "bag"]
    assert unnamed.labels == ["0", "1", "2"]
    assert "dpmpp_2m" in pipeline.samplers
    for name in pipeline.samplers:
        pipeline(pipeline.labels[:1], steps=3, sampler=name)


def test_samples_say_what_drew_them() -> None:
    pipeline = Pipeline(toy_manifest(), FakeSession(), "fp32")

    drawn = pipeline(["bag", 1], seeds=[7, 8], steps=3)

    assert (drawn.seeds, drawn.labels) == ((7, 8), ("bag", "shoe"))
    assert drawn.settings == pipeline.settle(Settings(steps=3))
    assert drawn.settings is not None
    assert drawn.settings.sampler == "ddim"


def test_samples_show_themselves_in_a_notebook_as_a_small_grid() -> None:
    small = Samples(some_latent(5), "pixel")
    large = Samples(np.zeros((30, 3, 512, 1024), np.float32), "pixel")

    assert picture(small).size == (3 * 96, 2 * 96)
    assert picture(large).size == (4 * 256, 4 * 128)
    assert Samples(some_latent(1), "vae")._repr_png_() is None


def test_ipythons_formatter_takes_the_picture() -> None:
    formatters: Any = pytest.importorskip("IPython.core.formatters")

    shown, _ = formatters.DisplayFormatter().format(Samples(some_latent(1), "pixel"))

    assert shown["image/png"] == Samples(some_latent(1), "pixel")._repr_png_()


def picture(samples: Samples) -> Image.Image:
    png = samples._repr_png_()
    assert png is not None
    return Image.open(io.BytesIO(png))
