"""Small checkpoints as other people's code bases write them, and what their models compute.

The forward pass is written from the papers and the published key tables, by hand and in functions:
it shares nothing with the package's own model.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pitstop import CheckpointError
from pitstop.models.checkpoint import load_checkpoint
from pitstop.models.format import Hints

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """Of a small DiT: 8 x 8 latents of 4 channels in patches of 2, and 3 classes."""

    width: int = 32
    depth: int = 3
    heads: int = 4
    grid: int = 4
    patch: int = 2
    channels: int = 4
    outputs: int = 8
    classes: int = 3
    mlp: int = 128


SHAPE = Shape()
HEADS = Hints(num_heads=SHAPE.heads)
SIDE = SHAPE.grid * SHAPE.patch


def dit_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """DiT's key table."""
    width, patch = shape.width, shape.patch
    layers = {
        "t_embedder.mlp.0": (width, 256),
        "t_embedder.mlp.2": (width, width),
        "final_layer.linear": (patch * patch * shape.outputs, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
    }
    for index in range(shape.depth):
        layers |= {
            f"blocks.{index}.attn.qkv": (3 * width, width),
            f"blocks.{index}.attn.proj": (width, width),
            f"blocks.{index}.mlp.fc1": (shape.mlp, width),
            f"blocks.{index}.mlp.fc2": (width, shape.mlp),
            f"blocks.{index}.adaLN_modulation.1": (6 * width, width),
        }
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, shape.grid**2, width),
        "x_embedder.proj.weight": (width, shape.channels, patch, patch),
        "x_embedder.proj.bias": (width,),
        "y_embedder.embedding_table.weight": (shape.classes + 1, width),
    }
    for name, (rows, columns) in layers.items():
        shapes |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
    return shapes


def random_weights(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> Weights:
    """Every weight drawn, the modulation too; the last layer so that latents stay of order 1."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, sides in shapes.items():
        fan_in = math.prod(sides[1:]) if len(sides) > 1 else 100
        gain = 0.5 if name.startswith("final_layer.linear") else 1.0
        weights[name] = torch.randn(sides, generator=generator) * gain / fan_in**0.5
    return weights


def dit_weights(shape: Shape = SHAPE, seed: int = 0) -> Weights:
    """A state dict with DiT's own positions in it."""
    weights = random_weights(dit_shapes(shape), seed)
    return {**weights, "pos_embed": positions(shape).float()[None]}


def positions(shape: Shape) -> Tensor:
    """float64 [token, channel]: sines and cosines of the column, then of the row."""
    quarter = shape.width // 4
    omega = 10000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    rows = []
    for row in range(shape.grid):
        for column in range(shape.grid):
            angles = torch.stack([column * omega, row * omega])
            rows.append(torch.cat([angles.sin(), angles.cos()], dim=1).flatten())
    return torch.stack(rows)


@torch.inference_mode()
def dit_forward(
    weights: Weights, latent: Tensor, time: Tensor, label: Tensor, heads: int = SHAPE.heads
) -> Tensor:
    """What DiT, SiT and REPA compute: float32 [batch, output channel, row, column]."""

    def linear(name: str, x: Tensor) -> Tensor:
        return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], eps=1e-6)

    patches = weights["x_embedder.proj.weight"]
    width, _, patch, _ = patches.shape
    x = functional.conv2d(latent, patches, weights["x_embedder.proj.bias"], stride=patch)
    batch, _, rows, columns = x.shape
    x = x.reshape(batch, width, -1).mT + weights["pos_embed"]
    angles = time.float()[:, None] * torch.exp(-math.log(10000) * torch.arange(128) / 128)
    embedded = linear("t_embedder.mlp.0", torch.cat([angles.cos(), angles.sin()], dim=1))
    c = linear("t_embedder.mlp.2", functional.silu(embedded))
    c = functional.silu(c + weights["y_embedder.embedding_table.weight"][label])
    for index in range(1 + max(int(k.split(".")[1]) for k in weights if k.startswith("blocks."))):
        block = f"blocks.{index}"
        parts = linear(f"{block}.adaLN_modulation.1", c)[:, None].chunk(6, dim=2)
        shift1, scale1, gate1, shift2, scale2, gate2 = parts
        qkv = linear(f"{block}.attn.qkv", norm(x) * (1 + scale1) + shift1)
        q, k, v = (
            part.reshape(batch, -1, heads, width // heads).transpose(1, 2)
            for part in qkv.chunk(3, dim=2)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + gate1 * linear(f"{block}.attn.proj", mixed)
        hidden = linear(f"{block}.mlp.fc1", norm(x) * (1 + scale2) + shift2)
        hidden = functional.gelu(hidden, approximate="tanh")
        x = x + gate2 * linear(f"{block}.mlp.fc2", hidden)
    shift, scale = linear("final_layer.adaLN_modulation.1", c)[:, None].chunk(2, dim=2)
    x = linear("final_layer.linear", norm(x) * (1 + scale) + shift)
    x = x.reshape(batch, rows, columns, patch, patch, -1)
    return torch.einsum("nhwpqc->nchpwq", x).reshape(batch, -1, rows * patch, columns * patch)


def sit_forward(weights: Weights, latent: Tensor, time: Tensor, label: Tensor) -> Tensor:
    """SiT: the first half of a DiT's output."""
    return dit_forward(weights, latent, time, label).chunk(2, dim=1)[0]


def write_dit(path: Path, weights: Weights | None = None) -> Path:
    """As the official weights come: the state dict itself."""
    torch.save(dit_weights() if weights is None else weights, path)
    return path


def write_training(path: Path, weights: Weights, **arguments: Any) -> Path:
    """As the training scripts of DiT, SiT and REPA write it, with AdamW's state."""
    started = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    moments = {"step": torch.tensor(7.0), "exp_avg": torch.ones(3), "exp_avg_sq": torch.ones(3)}
    optimizer = {
        "state": {0: moments},
        "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999), "params": [0]}],
    }
    content = {
        "model": started,
        "ema": weights,
        "opt": optimizer,
        "args": argparse.Namespace(results_dir=path.parent, global_seed=0, **arguments),
    }
    torch.save(content, path)
    return path


def repa_weights() -> Weights:
    return repa_weights_of(SHAPE)


def repa_weights_of(shape: Shape) -> Weights:
    """REPA's state dict: no sigma, and a projector from the features of a block."""
    shape = dataclasses.replace(shape, outputs=shape.channels)
    inner = 3 * shape.width // 2
    projector = {
        f"projectors.0.{index}": (inner, shape.width if index == 0 else inner)
        for index in (0, 2, 4)
    }
    extra: dict[str, tuple[int, ...]] = {}
    for name, (rows, columns) in projector.items():
        extra |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
    return {**dit_weights(shape), **random_weights(extra, seed=1)}


def write_diffusers(folder: Path, **options: Any) -> Any:
    """A small DiT of diffusers in ``folder``; ``options`` are those of its ``save_pretrained``."""
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

    model = DiTTransformer2DModel(
        num_attention_heads=SHAPE.heads,
        attention_head_dim=SHAPE.width // SHAPE.heads,
        in_channels=SHAPE.channels,
        out_channels=SHAPE.outputs,
        num_layers=SHAPE.depth,
        sample_size=SIDE,
        num_embeds_ada_norm=SHAPE.classes,
        norm_eps=1e-3,  # so that the epsilon of another norm shows
    )
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    weights = random_weights(shapes)
    first = "transformer_blocks.0.norm1.emb."
    for name in weights:
        if ".norm1.emb." in name:
            weights[name] = weights[first + name.split(".norm1.emb.")[1]]
    model.load_state_dict(weights)
    model.eval().save_pretrained(folder, **options)
    return model


@torch.inference_mode()
def diffusers_forward(model: Any, latent: Tensor, time: Tensor, label: Tensor) -> Tensor:
    answer: Tensor = model(latent, timestep=time, class_labels=label).sample
    return answer


def change_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def refusal(path: Path, hints: Hints = HEADS) -> str:
    """The message with which a file is refused: one line, a problem and a remedy."""
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(path, hints)
    assert len(str(raised.value).splitlines()) == 1
    assert raised.value.remedy.strip()
    return str(raised.value)
