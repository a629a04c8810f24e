"""A diffusers VAE: its folder read and checked, and both halves of its network traced.

diffusers is imported where a folder is opened, so an export without a VAE does not need it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from ... import CheckpointError
from ...models.checkpoint_files import read_folder_weights
from ...models.format import name_some
from ...models.weight_checks import check_dtypes, check_values
from ...runtime.bundle.manifest import IMAGE_CHANNELS
from ...runtime.decoder import INPUT, OUTPUT
from ...runtime.encoder import INPUT as IMAGE
from ...runtime.encoder import OUTPUT as LATENT
from ...runtime.sampling.sampler import Latent
from ..trace import quiet, trace_module

CONFIG = "config.json"
PIPELINE = "model_index.json"
CLASSES = ("AutoencoderKL", "AutoencoderTiny")
DECODERS, ENCODERS = ("decoder.", "post_quant_conv."), ("encoder.", "quant_conv.")  # before keys
# The attention's keys in VAEs that were saved before diffusers 0.15, such as SD's own.
RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
SMALLEST, LARGEST = 1e-6, 1e6  # of a scale: wider than any VAE needs
LAYERS = ("layers_per_block", "num_decoder_blocks")
MAX_LAYERS = 64  # of one resolution: far beyond any VAE
PROBE = 8  # latent pixels along one side, to see how far the decoder enlarges them
WHOLE = "Take the config.json and the weights that were saved together"


class Decoder(nn.Module):
    """What a VAE does with a latent: its way into the decoder, and the decoder.

    Attributes:
        mean, std: float32 [1, channel, 1, 1], where the VAE's latents are normalised by channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, vae: Any, statistics: tuple[list[float], list[float]] | None) -> None:
        super().__init__()
        self.decoder = vae.decoder
        self.post_quant_conv = getattr(vae, "post_quant_conv", None) or nn.Identity()
        self.normalised = statistics is not None
        _register(self, statistics)

    def forward(self, latent: Tensor) -> Tensor:
        if self.normalised:
            latent = latent * self.std + self.mean
        image: Tensor = self.decoder(self.post_quant_conv(latent))
        return image


class Encoder(nn.Module):
    """What a VAE does with an image: the mean of the latents that it may be.

    Attributes:
        mean, std: As `Decoder`'s.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, vae: Any, statistics: tuple[list[float], list[float]] | None) -> None:
        super().__init__()
        self.encoder = vae.encoder
        self.quant_conv = getattr(vae, "quant_conv", None) or nn.Identity()
        self.channels = vae.config.latent_channels
        self.normalised = statistics is not None
        _register(self, statistics)

    def forward(self, image: Tensor) -> Tensor:
        latent: Tensor = self.quant_conv(self.encoder(image))[:, : self.channels]
        return (latent - self.mean) / self.std if self.normalised else latent


def _register(module: nn.Module, statistics: tuple[list[float], list[float]] | None) -> None:
    for name, values in zip(("mean", "std"), statistics or (), strict=False):
        column = torch.tensor(values).reshape(1, -1, 1, 1)
        module.register_buffer(name, column, persistent=False)


@dataclass(frozen=True)
class Vae:
    """A VAE that can decode, and encode where its folder has that half too.

    Attributes:
        kind: Its class in diffusers.
        module: From a latent to an image in about [-1, 1]; float32, in eval mode.
        encoder: From an image in [-1, 1] to a latent of its own, or None.
        latent_channels: Of its latents.
        image_channels: Of its images.
        factor: Image pixels along one side of a latent pixel.
        scale: What it takes is ``latent / scale + shift`` of a denoiser's latent.
        shift: See ``scale``.
    """

    kind: str
    module: nn.Module
    encoder: nn.Module | None
    latent_channels: int
    image_channels: int
    factor: int
    scale: float
    shift: float

    def decode(self, latent: Latent) -> Latent:
        """Ask PyTorch: float32 [image, channel, row, column], in and out."""
        with torch.inference_mode():
            image: Latent = self.module(torch.from_numpy(latent)).numpy()
        return image

    def encode(self, image: Latent) -> Latent:
        """As `decode`, the other way round; for a VAE with an encoder."""
        assert self.encoder is not None
        with torch.inference_mode():
            latent: Latent = self.encoder(torch.from_numpy(image)).numpy()
        return latent


def read_vae(folder: Path) -> Vae:
    """Read the VAE in a folder of diffusers.

    Raises:
        CheckpointError: The folder is no `AutoencoderKL` or `AutoencoderTiny`, or its config or
            weights are missing, broken, or do not go together.
    """
    config = _read_config(folder)
    kind = str(config["_class_name"])
    vae = _empty_vae(folder, kind, config)
    channels, factor = _measure(folder, vae)
    if channels not in IMAGE_CHANNELS:
        raise CheckpointError(
            f"The VAE in {folder} makes images of {channels} channels",
            "Name one that makes grey or RGB images",
        )
    facts = vae.config
    scale = _number(folder, facts, "scaling_factor", SMALLEST)
    shift = _number(folder, facts, "shift_factor")
    statistics = _statistics(folder, facts)
    module = Decoder(vae, statistics)
    stored = read_folder_weights(folder)
    _load_weights(folder, module, stored, DECODERS)
    encoder = None
    if any(key.startswith(ENCODERS) for key in stored) and facts["in_channels"] == channels:
        encoder = Encoder(vae, statistics)
        _load_weights(folder, encoder, stored, ENCODERS)
        encoder.eval()
    latent_channels = facts["latent_channels"]
    return Vae(kind, module.eval(), encoder, latent_channels, channels, factor, scale, shift)


def trace_decoder(vae: Vae, shape: tuple[int, ...], opset: int) -> ir.Model:
    """Trace a decoder for latents of one shape: float32 [image, channel, row, column]."""
    return trace_module(vae.module, (torch.zeros(shape),), (INPUT,), OUTPUT, opset)


def trace_encoder(vae: Vae, shape: tuple[int, ...], opset: int) -> ir.Model:
    """Trace an encoder for images of one shape: float32 [image, channel, row, column]."""
    assert vae.encoder is not None
    return trace_module(vae.encoder, (torch.zeros(shape),), (IMAGE,), LATENT, opset)


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        if (folder / PIPELINE).is_file():
            raise CheckpointError(
                f"{folder} is a whole pipeline of diffusers", f"Name its VAE: `--vae {folder}/vae`"
            )
        raise CheckpointError(
            f"There is no VAE at {folder}: it has no {CONFIG}",
            "Name a folder that diffusers' `save_pretrained` wrote",
        )
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{folder / CONFIG} cannot be read ({error})", WHOLE) from error
    found = config.get("_class_name") if isinstance(config, dict) else None
    if found not in CLASSES:
        what = f"a {found}" if found else "of no class: its config.json has no `_class_name`"
        raise CheckpointError(
            f"The model in {folder} is {what}", f"Name a VAE of one of: {', '.join(CLASSES)}"
        )
    return dict(config)


def _empty_vae(folder: Path, kind: str, config: Mapping[str, Any]) -> Any:
    """The network of a config without numbers in it."""
    for name in LAYERS:
        found = config.get(name)
        counts = found if isinstance(found, list) else [found]
        if any(type(count) is int and count > MAX_LAYERS for count in counts):
            raise CheckpointError(
                f"The config of the VAE in {folder} has more than {MAX_LAYERS} {name}", WHOLE
            )
    with quiet("diffusers"):
        import diffusers

        try:
            with torch.device("meta"):
                return getattr(diffusers, kind).from_config(config)
        except Exception as error:  # of a config without sense, diffusers raises almost anything
            raise CheckpointError(
                f"The config of the VAE in {folder} describes no {kind} ({error})", WHOLE
            ) from error


def _measure(folder: Path, vae: Any) -> tuple[int, int]:
    """The channels of a VAE's images, and how far it enlarges a latent."""
    latent = torch.zeros(1, vae.config.latent_channels, PROBE, PROBE, device="meta")
    try:
        with torch.inference_mode():
            _, channels, *sides = Decoder(vae, None)(latent).shape
    except RuntimeError as error:
        raise CheckpointError(
            f"The config of the VAE in {folder} describes no network that runs ({error})", WHOLE
        ) from error
    return channels, sides[0] // PROBE


def _statistics(folder: Path, config: Mapping[str, Any]) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation of each channel, where the config has both."""
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        return None
    channels = config["latent_channels"]
    if not isinstance(mean, list) or not isinstance(std, list):
        raise CheckpointError(f"latents_mean of the VAE in {folder} is no list of numbers", WHOLE)
    if not len(mean) == len(std) == channels:
        raise CheckpointError(
            f"The VAE in {folder} has {len(mean)} latents_mean and {len(std)} latents_std for "
            f"{channels} channels",
            WHOLE,
        )
    means = [_number(folder, {"latents_mean": value}, "latents_mean") for value in mean]
    stds = [_number(folder, {"latents_std": value}, "latents_std", SMALLEST) for value in std]
    return means, stds


def _load_weights(
    folder: Path, module: nn.Module, stored: Mapping[str, Tensor], needed: tuple[str, ...]
) -> None:
    tensors = {_renamed(key): stored[key] for key in stored if key.startswith(needed)}
    expected = module.state_dict()
    missing = expected.keys() - tensors.keys()
    if missing:
        raise CheckpointError(f"{folder} lacks {name_some(missing)} of the {needed[0][:-1]}", WHOLE)
    left_over = tensors.keys() - expected.keys()
    if left_over:
        raise CheckpointError(f"{folder} has {name_some(left_over)}, against its config", WHOLE)
    check_dtypes(folder, tensors)
    check_values(folder, tensors, expected, WHOLE)
    weights = {key: tensor.to(torch.float32) for key, tensor in tensors.items()}
    module.load_state_dict(weights, assign=True)


def _renamed(key: str) -> str:
    *path, owner, name = key.split(".")
    return ".".join([*path, RENAMED.get(owner, owner) if "attentions" in path else owner, name])


def _number(folder: Path, config: Mapping[str, Any], name: str, least: float = -LARGEST) -> float:
    """A field of the config, from ``least`` to `LARGEST`; a shift that is not there is 0."""
    value = config.get(name)
    if value is None and name == "shift_factor":
        return 0.0
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not least <= value <= LARGEST
    ):
        shown = "a whole number out of range" if type(value) is int else repr(value)[:80]
        raise CheckpointError(
            f"{name} of the VAE in {folder} is {shown}, not a finite number from {least:g} to "
            f"{LARGEST:g}",
            WHOLE,
        )
    return float(value)
