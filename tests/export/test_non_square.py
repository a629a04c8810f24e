"""Images of two sides, of every family: PyTorch's to the gate, and pictures of that size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_helpers import one_line
from checkpoint_helpers import tiny_checkpoint
from cli_helpers import refused, run
from model_helpers import filled, tiny_dit, tiny_edt, tiny_pit
from PIL import Image
from vae_helpers import decode_with_diffusers, save_kl

from pitstop import CheckpointError, ConfigError
from pitstop.evaluation.accuracy.reference import load_model
from pitstop.export.parity import FP32_TOLERANCE
from pitstop.export.pipeline import export_bundle
from pitstop.export.trace import Hints, TorchSession, load_source
from pitstop.export.vae.add import VaeShape
from pitstop.models.checkpoint import (
    Checkpoint,
    build_model,
    save_checkpoint,
    with_input_size,
)
from pitstop.models.denoiser import DenoiserConfig
from pitstop.models.layers import sincos_positions
from pitstop.runtime.bundle.folder import open_bundle
from pitstop.runtime.distance import psnr, relative_l2
from pitstop.runtime.pipeline import Pipeline

FAMILIES = {
    "pit": (tiny_pit(depth=2), (16, 32)),
    "dit": (tiny_dit(depth=2), (12, 26)),
    "sit": (tiny_dit(depth=2, prediction_type="velocity", data_at=1), (32, 16)),
    "edt": (tiny_edt(input_size=(16, 32)), None),  # its tables belong to one size
}


def saved(config: DenoiserConfig, path: Path) -> str:
    save_checkpoint(Checkpoint(filled(build_model(config))), path)
    return str(path)


@pytest.mark.parametrize(
    "family",
    ["pit", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dit", "sit", "edt"))],
)
def test_an_export_of_two_sides_draws_what_pytorch_draws(family: str, tmp_path: Path) -> None:
    config, asked = FAMILIES[family]
    source = saved(config, tmp_path / "tiny.safetensors")
    rows, columns = asked or config.input_size

    report = export_bundle(source, tmp_path / "bundle", image_size=asked)

    assert report.passed
    manifest = open_bundle(report.bundle).manifest
    assert manifest.latent_shape == (3, rows, columns)
    here = Pipeline.from_bundle(report.bundle)([1, 3], steps=4, seeds=[7, 8])
    reference = Pipeline(manifest, TorchSession(load_model(source, manifest)), "fp32")
    drawn = reference([1, 3], steps=4, seeds=[7, 8]).latents
    assert relative_l2(drawn, here.latents) <= FP32_TOLERANCE
    assert [picture.size for picture in here.images] == [(columns, rows)] * 2


def test_a_grid_of_two_sides_is_a_part_of_the_square_one() -> None:
    """A token's place is its row and column, each counted by one, whatever the grid."""
    square = sincos_positions(32, (16, 16)).reshape(16, 16, 32)
    wide = sincos_positions(32, (4, 16)).reshape(4, 16, 32)
    high = sincos_positions(32, (16, 6)).reshape(16, 6, 32)

    assert torch.equal(wide, square[:4])
    assert torch.equal(high, square[:, :6])


def test_the_command_takes_height_and_width(tmp_path: Path) -> None:
    source = saved(FAMILIES["dit"][0], tmp_path / "tiny.safetensors")
    out = tmp_path / "bundle"

    made = run("export", source, "--out", out, "--image-size", "8x20", "--batch", 1)
    drawn = run("generate", out, "--num", 2, "--steps", 2, "--cfg-scale", 1, "--out", tmp_path)

    assert (made.exit_code, drawn.exit_code) == (0, 0), made.output + drawn.output
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (2 * 2 * 20, 2 * 8)  # two columns, zoomed twofold


@pytest.mark.parametrize("said", ["256x", "x256", "1x2x3", "wide", "256 512", "", "1e3"])
def test_a_size_that_is_none_is_refused(said: str, tmp_path: Path) -> None:
    line = refused("export", "fashion", "--out", tmp_path / "bundle", "--image-size", said)

    assert "The image size is" in line
    assert "such as 256x512" in line


@pytest.mark.parametrize(
    ("preset", "size", "found", "remedy"),
    [
        ("fashion", (32, 40), "16 x 20 tokens, which PiT's windows, 16", "such as 32x32"),
        ("pit-s-2", (256, 328), "16 x 20.5 tokens, which PiT's windows, 128", "such as 256x384"),
        ("dit-s-4", (256, 264), "8 x 8.25 tokens, which the patches, 32", "such as 256x256"),
        ("edt-s-2", (256, 272), "16 x 17 tokens, which the tokens of EDT's", "such as 256x256"),
    ],
)
def test_sides_that_are_not_tiled_are_refused_with_those_that_are(
    preset: str, size: tuple[int, int], found: str, remedy: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_source(preset, size)

    message = one_line(caught.value)
    assert found in message
    assert remedy in message


def test_an_edts_tables_of_relative_positions_are_not_stretched() -> None:
    with pytest.raises(CheckpointError, match=r"relative_position_bias_table.*one size"):
        with_input_size(Checkpoint(build_model(FAMILIES["edt"][0])), (16, 48))


def test_an_attention_modulation_is_for_square_grids_alone(tmp_path: Path) -> None:
    source = saved(FAMILIES["dit"][0], tmp_path / "tiny.safetensors")
    with pytest.raises(ConfigError, match="8 x 16 tokens"):
        load_source(source, (16, 32), hints=Hints(amm="1"))


@pytest.mark.slow
def test_a_vae_decodes_latents_of_two_sides_in_tiles(tmp_path: Path) -> None:
    source = tiny_checkpoint(tmp_path / "latent.safetensors", channels=4)
    folder = save_kl(tmp_path / "vae")

    report = export_bundle(
        str(source), tmp_path / "bundle", vae=folder, image_size=(16, 48), vae_shape=VaeShape(2)
    )
    tiled = export_bundle(
        str(source),
        tmp_path / "tiled",
        vae=folder,
        image_size=(16, 48),
        vae_shape=VaeShape(1, 12),
    )

    assert report.passed
    assert tiled.passed
    for bundle in (report.bundle, tiled.bundle):
        pipeline = Pipeline.from_bundle(bundle)
        drawn = pipeline([0, 1, 2], steps=2)
        assert {picture.size for picture in drawn.images} == {(48, 16)}
    whole = Pipeline.from_bundle(report.bundle)
    assert whole.decode is not None
    found = np.concatenate(list(whole.decode(drawn.latents)))
    own = drawn.latents / np.float32(whole.manifest.latent_scale)
    assert psnr(decode_with_diffusers(folder, own), found, 2.0) > 60
