"""The folder of a VAE: what is read from it, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_helpers import one_line
from pass_helpers import noise
from safetensors.torch import load_file
from vae_helpers import (
    WEIGHTS,
    Tensors,
    change_config,
    change_weights,
    decode_with_diffusers,
    save_kl,
    save_tiny,
)

from pitstop import CheckpointError
from pitstop.export.vae.trace import read_vae

LATENT = noise(1, 4, 8, 8)
Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def kl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_kl(tmp_path_factory.mktemp("kl"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def copied(kl: Path, tmp_path: Path) -> Path:
    return shutil.copytree(kl, tmp_path / "vae")


def old_names(tensors: Tensors) -> Tensors:
    """The attention's keys as Stable Diffusion's own VAE has them."""
    pairs = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for key, tensor in tensors.items():
        for new, old in pairs.items():
            key = key.replace(f".{new}.", f".{old}.")
        renamed[key] = tensor
    assert renamed.keys() != tensors.keys()
    return renamed


def decoder_alone(tensors: Tensors) -> Tensors:
    return {key: tensor for key, tensor in tensors.items() if not key.startswith(("enc", "quant"))}


def test_an_autoencoder_decodes_as_in_diffusers(kl: Path) -> None:
    vae = read_vae(kl)

    assert (vae.kind, vae.latent_channels, vae.factor) == ("AutoencoderKL", 4, 2)
    assert (vae.scale, vae.shift) == (0.18215, 0.0)
    np.testing.assert_allclose(vae.decode(LATENT), decode_with_diffusers(kl, LATENT), atol=1e-6)


def test_a_tiny_autoencoder_decodes_as_in_diffusers(tiny: Path) -> None:
    vae = read_vae(tiny)

    assert (vae.kind, vae.latent_channels, vae.factor) == ("AutoencoderTiny", 4, 8)
    assert (vae.scale, vae.shift) == (1.0, 0.0)
    np.testing.assert_allclose(vae.decode(LATENT), decode_with_diffusers(tiny, LATENT), atol=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        {"blocks": 4},
        {"use_post_quant_conv": False, "mid_block_add_attention": False},
        {"out_channels": 1, "in_channels": 1, "layers_per_block": 2},
    ],
)
def test_other_layouts_decode_as_in_diffusers(tmp_path: Path, config: dict[str, object]) -> None:
    folder = save_kl(tmp_path / "vae", **config)  # type: ignore[arg-type]

    vae = read_vae(folder)

    found, expected = vae.decode(LATENT), decode_with_diffusers(folder, LATENT)
    assert found.shape[2] == 8 * vae.factor
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_scale_and_the_shift_are_the_configs(copied: Path) -> None:
    vae = read_vae(change_config(copied, scaling_factor=1.5305, shift_factor=0.0609))

    assert (vae.scale, vae.shift) == (1.5305, 0.0609)


def test_latents_that_are_normalised_by_channel_are_brought_back_in_the_graph(
    copied: Path,
) -> None:
    mean, std = [0.1, -0.2, 0.3, 0.0], [0.5, 2.0, 1.5, 1.0]
    given = LATENT * np.reshape(std, (1, 4, 1, 1)) + np.reshape(mean, (1, 4, 1, 1))
    expected = decode_with_diffusers(copied, given.astype(np.float32))

    vae = read_vae(change_config(copied, latents_mean=mean, latents_std=std))

    np.testing.assert_allclose(vae.decode(LATENT), expected, atol=1e-5)


@pytest.mark.parametrize("change", [old_names, decoder_alone])
def test_old_keys_and_a_file_without_an_encoder_are_read(
    kl: Path, copied: Path, change: Callable[[Tensors], Tensors]
) -> None:
    vae = read_vae(change_weights(copied, change))

    np.testing.assert_array_equal(vae.decode(LATENT), read_vae(kl).decode(LATENT))


def test_weights_of_half_the_size_are_read_in_float32(kl: Path, copied: Path) -> None:
    change_weights(copied, lambda tensors: {k: tensor.half() for k, tensor in tensors.items()})
    (copied / WEIGHTS).rename(copied / "diffusion_pytorch_model.fp16.safetensors")

    found, expected = read_vae(copied).decode(LATENT), read_vae(kl).decode(LATENT)

    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_a_pickle_of_weights_alone_is_read(kl: Path, copied: Path) -> None:
    torch.save(load_file(copied / WEIGHTS), copied / "diffusion_pytorch_model.bin")
    (copied / WEIGHTS).unlink()

    np.testing.assert_array_equal(read_vae(copied).decode(LATENT), read_vae(kl).decode(LATENT))


def cut_short(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def weights(change: Callable[[Tensors], Mapping[str, torch.Tensor]]) -> Change:
    return lambda folder: change_weights(folder, change)


def config(**fields: object) -> Change:
    return lambda folder: change_config(folder, **fields)


def one(change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    key = "decoder.conv_in.weight"
    return weights(lambda tensors: {**tensors, key: change(tensors[key])})


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (shutil.rmtree, "it has no config.json"),
        (lambda folder: (folder / "config.json").unlink(), "it has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
        (config(_class_name="UNet2DConditionModel"), "is a UNet2DConditionModel"),
        (config(_class_name="VQModel"), "is a VQModel"),
        (config(_class_name=None), "has no `_class_name`"),
        (config(block_out_channels="wide"), "describes no AutoencoderKL"),
        (config(norm_num_groups=5), "describes no AutoencoderKL"),
        (config(latent_channels=16), "decoder.conv_in.weight"),
        (config(latent_channels=10**30), "describes no AutoencoderKL"),
        (config(layers_per_block=10**7), "has more than 64 layers_per_block"),
        (config(scaling_factor="large"), "scaling_factor"),
        (config(scaling_factor=0.0), "scaling_factor"),
        (config(scaling_factor=10**400), "scaling_factor"),
        (config(scaling_factor=1e-320), "1e-320, not a finite number from 1e-06 to 1e+06"),
        (config(shift_factor=1e300), "shift_factor"),
        (config(latents_mean=[0.0] * 4, latents_std=[0.0] * 4), "latents_std"),
        (config(latents_mean=[None] * 4, latents_std=[1.0] * 4), "latents_mean"),
        (config(latents_mean=[0.0], latents_std=[1.0]), "1 latents_mean"),
        (config(latents_mean=["a"] * 4, latents_std=[1.0] * 4), "latents_mean"),
        (lambda folder: (folder / WEIGHTS).unlink(), f"lacks its weights {WEIGHTS}"),
        (cut_short, "is not a whole safetensors file"),
        (weights(lambda t: {k: v for k, v in t.items() if "decoder" not in k}), "of the decoder"),
        (weights(lambda t: {**t, "decoder.more": torch.ones(1)}), "decoder.more"),
        (one(torch.Tensor.half), "mixes torch."),
        (one(lambda tensor: tensor * torch.nan), "holds NaN"),
        (one(lambda tensor: tensor[:1]), "[1, 4, 3, 3]"),
    ],
)
def test_a_folder_that_holds_no_whole_vae_is_refused(
    copied: Path, change: Change, found: str
) -> None:
    change(copied)

    with pytest.raises(CheckpointError) as caught:
        read_vae(copied)

    assert found in one_line(caught.value)
    assert str(copied) in str(caught.value)


def test_a_whole_pipeline_is_told_where_its_vae_is(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")

    with pytest.raises(CheckpointError, match=r"is a whole pipeline.*--vae .*/vae"):
        read_vae(tmp_path)


def test_a_vae_of_four_colours_is_refused(tmp_path: Path) -> None:
    folder = save_kl(tmp_path / "vae", out_channels=4)

    with pytest.raises(CheckpointError, match="images of 4 channels"):
        read_vae(folder)


def test_a_vae_in_shards_is_read_as_one_in_a_file(kl: Path, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    AutoencoderKL.from_pretrained(kl).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1

    found, whole = read_vae(tmp_path).module.state_dict(), read_vae(kl).module.state_dict()

    assert found.keys() == whole.keys()
    assert all(torch.equal(found[key], whole[key]) for key in whole)


def test_a_vae_in_another_variant_alone_is_told(kl: Path, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    AutoencoderKL.from_pretrained(kl).save_pretrained(tmp_path, variant="bf16")
    with pytest.raises(CheckpointError) as caught:
        read_vae(tmp_path)
    assert "has its weights in other variants alone: bf16. Take bf16 out of the name" in one_line(
        caught.value
    )
