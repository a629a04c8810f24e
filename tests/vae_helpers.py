"""Small VAEs with random weights, made and saved by diffusers itself."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

Array = np.ndarray[Any, np.dtype[np.float32]]

WEIGHTS = "diffusion_pytorch_model.safetensors"
Tensors = dict[str, torch.Tensor]


def save_kl(
    folder: Path,
    *,
    blocks: int = 2,
    channels: Sequence[int] = (8, 8, 16, 16),
    groups: int = 4,
    **config: object,
) -> Path:
    """Write an `AutoencoderKL`: with four blocks, the layout of Stable Diffusion's VAE (f8d4)."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=tuple(channels[-blocks:]),
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        norm_num_groups=groups,
        **config,
    )
    vae.save_pretrained(folder)
    return folder


def save_tiny(folder: Path, **config: object) -> Path:
    """Write an `AutoencoderTiny`."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4, **config
    ).save_pretrained(folder)
    return folder


def decode_with_diffusers(folder: Path, latent: Array) -> Array:
    """What the VAE in a folder makes of a latent of its own."""
    import diffusers

    logging.getLogger("diffusers").setLevel(logging.ERROR)
    kind = json.loads((folder / "config.json").read_text())["_class_name"]
    vae = getattr(diffusers, kind).from_pretrained(folder, low_cpu_mem_usage=False).eval()
    with torch.inference_mode():
        image: Array = vae.decode(torch.from_numpy(latent)).sample.numpy()
    return image


def change_weights(folder: Path, change: Callable[[Tensors], Mapping[str, torch.Tensor]]) -> Path:
    """Write the weights of a folder anew."""
    tensors = change(load_file(folder / WEIGHTS))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)
    return folder


def change_config(folder: Path, **fields: object) -> Path:
    """Write other values into a folder's config; None removes a field."""
    path = folder / "config.json"
    content = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({name: v for name, v in content.items() if v is not None}))
    return folder
