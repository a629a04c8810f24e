"""A VAE's encoder in a bundle: diffusers' means, the gate, and pictures that are begun with."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundle_helpers import one_line
from checkpoint_helpers import tiny_checkpoint
from PIL import Image
from vae_helpers import change_config, change_weights, save_kl, save_tiny

from pitstop import CheckpointError
from pitstop.export.pipeline import ExportReport, export_bundle
from pitstop.export.vae import add_encoder as encoder_module
from pitstop.export.vae.trace import read_vae
from pitstop.runtime.bundle.folder import open_bundle
from pitstop.runtime.bundle.manifest import ENCODER
from pitstop.runtime.distance import relative_l2
from pitstop.runtime.encoder import TiledEncoder
from pitstop.runtime.pipeline import Pipeline

SHIFTED = {"scaling_factor": 0.5, "shift_factor": 0.25}
Array = np.ndarray[Any, np.dtype[np.float32]]


def encoded_by_diffusers(folder: Path, image: Array) -> Array:
    """The latent of a denoiser, by the mean: ``retrieve_latents(..., sample_mode="argmax")``."""
    import diffusers

    logging.getLogger("diffusers").setLevel(logging.ERROR)
    kind = json.loads((folder / "config.json").read_text())["_class_name"]
    vae = getattr(diffusers, kind).from_pretrained(folder, low_cpu_mem_usage=False).eval()
    with torch.inference_mode():
        made = vae.encode(torch.from_numpy(image))
    latent = made.latents if hasattr(made, "latents") else made.latent_dist.mode()
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    scaled: Array = ((latent - shift) * vae.config.scaling_factor).numpy()
    return scaled


def some_image(*shape: int) -> Array:
    drawn = np.random.default_rng(1).uniform(-1, 1, shape)
    return drawn.astype(np.float32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PiT that draws latents of 4 x 16 x 16."""
    folder = tmp_path_factory.mktemp("checkpoint")
    return str(tiny_checkpoint(folder / "latent.safetensors", channels=4))


@pytest.fixture(scope="module")
def kl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return change_config(save_kl(tmp_path_factory.mktemp("kl")), **SHIFTED)


@pytest.fixture(scope="module")
def exported(checkpoint: str, kl: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    return export_bundle(checkpoint, tmp_path_factory.mktemp("exported") / "bundle", vae=kl)


@pytest.mark.parametrize("save", [save_kl, save_tiny])
def test_a_vae_encodes_as_in_diffusers(save: Any, tmp_path: Path) -> None:
    folder = save(tmp_path / "vae")
    vae, image = read_vae(folder), some_image(2, 3, 32, 32)

    found = (vae.encode(image) - np.float32(vae.shift)) * np.float32(vae.scale)

    assert relative_l2(encoded_by_diffusers(folder, image), found) < 1e-6


def test_means_and_deviations_of_channels_are_taken_out(tmp_path: Path) -> None:
    folder = save_kl(tmp_path / "vae")
    plain, image = read_vae(folder).encode(some_image(1, 3, 16, 16)), some_image(1, 3, 16, 16)
    means, stds = [0.1, -0.2, 0.3, 0.0], [1.5, 0.5, 2.0, 1.0]
    change_config(folder, latents_mean=means, latents_std=stds)

    found = read_vae(folder).encode(image)

    column = (1, 4, 1, 1)
    wanted = (plain - np.reshape(means, column)) / np.reshape(stds, column)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_the_bundle_has_an_encoder_that_met_its_gate(exported: ExportReport, kl: Path) -> None:
    assert exported.passed
    assert exported.vae[ENCODER].worst > 100
    assert exported.vae[ENCODER].least_db == 60
    spec = open_bundle(exported.bundle).manifest.graphs[ENCODER]
    assert [str(t) for t in (*spec.inputs, *spec.outputs)] == [
        "image float32 [1, 3, 32, 32]",
        "latent float32 [1, 4, 16, 16]",
    ]
    pipeline, image = Pipeline.from_bundle(exported.bundle), some_image(3, 32, 32)
    assert isinstance(pipeline.encode, TiledEncoder)
    wanted = encoded_by_diffusers(kl, image[None])[0]
    for _ in range(2):  # it is closed after each image
        assert relative_l2(wanted, pipeline.encode(image)) < 1e-5


def test_a_picture_is_begun_with_and_kept_where_the_mask_is_black(exported: ExportReport) -> None:
    levels = np.rint((some_image(32, 32, 3) + 1) * 127.5).astype(np.uint8)
    picture = Image.fromarray(levels)
    half = np.zeros((32, 32), np.uint8)
    half[:, 16:] = 255
    pipeline = Pipeline.from_bundle(exported.bundle)

    init = pipeline.begin_with(picture, mask=Image.fromarray(half))
    drawn = pipeline([0, 1], steps=4, init=init).latents

    assert init is not None
    assert init.strength == 1
    np.testing.assert_array_equal(drawn[:, :, :, :8], np.stack([init.latent[:, :, :8]] * 2))
    assert np.isclose(drawn[:, :, :, 8:], init.latent[:, :, 8:]).mean() < 0.1


def without_encoder(tensors: Any) -> Any:
    return {name: t for name, t in tensors.items() if not name.startswith(("encoder", "quant"))}


@pytest.mark.slow
def test_a_vae_without_an_encoder_is_decoded_alone_and_the_export_says_so(
    checkpoint: str, tmp_path: Path
) -> None:
    folder = change_weights(save_kl(tmp_path / "vae"), without_encoder)

    report = export_bundle(checkpoint, tmp_path / "bundle", vae=folder)

    assert report.passed
    assert any("no encoder" in note for note in report.notes)
    assert ENCODER not in open_bundle(report.bundle).manifest.graphs


def test_half_an_encoder_is_refused(tmp_path: Path) -> None:
    folder = change_weights(
        save_kl(tmp_path / "vae"),
        lambda tensors: {n: t for n, t in tensors.items() if n != "encoder.conv_in.weight"},
    )
    with pytest.raises(CheckpointError) as caught:
        read_vae(folder)
    assert "lacks encoder.conv_in.weight of the encoder" in one_line(caught.value)


@pytest.mark.slow
def test_an_encoder_that_does_not_meet_its_gate_is_not_written(
    checkpoint: str, kl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_module, "LEAST_PSNR", 1000.0)

    report = export_bundle(checkpoint, tmp_path / "bundle", vae=kl)

    assert not report.passed
    assert not (tmp_path / "bundle").exists()
