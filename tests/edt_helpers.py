"""Small EDT checkpoints as their authors' code writes them, and what that model computes.

The forward pass is written by hand from the published tables of keys and shapes; it shares nothing
with the package's own model.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from format_helpers import Weights, random_weights
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class EdtShape:
    """Of a small EDT: 16 x 16 latents of 4 channels in patches of 2, and 3 classes."""

    head_dim: int = 4
    heads: tuple[int, ...] = (4, 5, 6)
    depths: tuple[int, ...] = (1, 1, 1, 1, 2)
    grid: int = 8
    patch: int = 2
    channels: int = 4
    outputs: int = 8
    classes: int = 3

    @property
    def levels(self) -> list[int]:
        """How often the grid of each stage was halved."""
        down = list(range(len(self.heads)))
        return [*down, *down[-2::-1]]

    @property
    def widths(self) -> list[int]:
        return [self.heads[level] * self.head_dim for level in self.levels]

    @property
    def block_levels(self) -> list[int]:
        return [
            level
            for level, depth in zip(self.levels, self.depths, strict=True)
            for _ in range(depth)
        ]


SHAPE = EdtShape()
S2 = EdtShape(52, (6, 8, 10), (2, 2, 2, 3, 3), 16, classes=1000)


def edt_shapes(shape: EdtShape) -> dict[str, tuple[int, ...]]:
    """EDT's key table."""
    first, patch = shape.widths[0], shape.patch
    layers = {
        "t_embedder.mlp.0": (first, 256),
        "t_embedder.mlp.2": (first, first),
        "final_layer.linear": (patch * patch * shape.outputs, first),
        "final_layer.adaLN_modulation.1": (2 * first, first),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, shape.grid**2, first),
        "x_embedder.proj.weight": (first, shape.channels, patch, patch),
        "x_embedder.proj.bias": (first,),
        "y_embedder.embedding_table.weight": (shape.classes + 1, first),
    }
    for index, level in enumerate(shape.block_levels):
        block, heads, side = f"blocks.{index}", shape.heads[level], shape.grid >> level
        width = heads * shape.head_dim
        shapes[f"{block}.attn.rel_pos_bias.relative_position_bias_table"] = (
            (2 * side - 1) ** 2,
            heads,
        )
        layers |= {
            f"{block}.attn.qkv": (3 * width, width),
            f"{block}.attn.proj": (width, width),
            f"{block}.mlp.fc1": (4 * width, width),
            f"{block}.mlp.fc2": (width, 4 * width),
            f"{block}.adaLN_modulation.1": (6 * width, first),
        }
    lowest = len(shape.heads) - 1
    for index, (before, after) in enumerate(pairwise(shape.widths[: lowest + 1])):
        down, tokens = f"down_blocks.{index}", (shape.grid >> index + 1) ** 2
        layers[f"{down}.adaLN_modulation.1"] = (8 * before, first)
        shapes[f"{down}.reduction.weight"] = (after, 4 * before)
        shapes[f"{down}.pos_embed"] = (1, tokens, after)
    for index, (before, after) in enumerate(pairwise(shape.widths[lowest:])):
        concat, tokens = f"concat_blocks.{index}", (shape.grid >> lowest - index - 1) ** 2
        shapes[f"up_blocks.{index}.expand.weight"] = (4 * after, before)
        layers[f"{concat}.adaLN_modulation.1"] = (4 * after, first)
        layers[f"{concat}.cat"] = (after, 2 * after)
        shapes[f"{concat}.pos_embed"] = (1, tokens, after)
    for name, (rows, columns) in layers.items():
        shapes |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
    return shapes


def edt_weights(shape: EdtShape = SHAPE, seed: int = 0) -> Weights:
    """A state dict whose tables of relative positions are not near zero."""
    weights = random_weights(edt_shapes(shape), seed)
    for name in weights:
        if name.endswith("_table"):
            weights[name] = 4 * weights[name]
    return weights


def amm_matrix(side: int, *, large: bool = False) -> Tensor:
    """As the authors write it: the value at the distance from token 0 to token 3n-1 is the cut."""
    frequency = 2 * math.pi / (4 * (side - 1) * math.sqrt(2))

    def value(distance: float) -> float:
        wave = math.cos(frequency * distance)
        return 1.3 * wave if large else 0.5 * math.exp(wave)

    cut = value(math.hypot(2, side - 1)) - 1e-12
    tokens = [(row, column) for row in range(side) for column in range(side)]
    matrix = [[value(math.dist(a, b)) for b in tokens] for a in tokens]
    return torch.tensor([[m if m >= cut else 0.0 for m in row] for row in matrix])


def position_bias(table: Tensor, side: int) -> Tensor:
    """[head, query, key] of a table [(2 side - 1) ** 2, head]."""
    tokens = [(row, column) for row in range(side) for column in range(side)]
    reach = 2 * side - 1
    rows = [
        (q[0] - k[0] + side - 1) * reach + (q[1] - k[1] + side - 1) for q in tokens for k in tokens
    ]
    return table[rows].reshape(len(tokens), len(tokens), -1).permute(2, 0, 1)


@torch.inference_mode()
def edt_forward(
    weights: Weights,
    latent: Tensor,
    time: Tensor,
    label: Tensor,
    shape: EdtShape = SHAPE,
    amm: Sequence[int] = (),
) -> Tensor:
    """What EDT computes: float32 [batch, output channel, row, column]."""

    def linear(name: str, x: Tensor) -> Tensor:
        return functional.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift

    def made(name: str, count: int) -> tuple[Tensor, ...]:
        return linear(f"{name}.adaLN_modulation.1", c)[:, None].chunk(count, dim=2)

    def block(index: int, x: Tensor) -> Tensor:
        name, level = f"blocks.{index}", shape.block_levels[index]
        heads, side = shape.heads[level], shape.grid >> level
        shift1, scale1, gate1, shift2, scale2, gate2 = made(name, 6)
        qkv = linear(f"{name}.attn.qkv", modulated(x, shift1, scale1))
        q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=2))
        table = weights[f"{name}.attn.rel_pos_bias.relative_position_bias_table"]
        scores = q @ k.mT / shape.head_dim**0.5 + position_bias(table, side)
        attended = scores.softmax(dim=-1)
        if index in amm:
            attended = attended * amm_matrix(side)
        mixed = (attended @ v).transpose(1, 2).flatten(2)
        x = x + gate1 * linear(f"{name}.attn.proj", mixed)
        hidden = linear(f"{name}.mlp.fc1", modulated(x, shift2, scale2))
        return x + gate2 * linear(f"{name}.mlp.fc2", functional.gelu(hidden, approximate="tanh"))

    def down(index: int, x: Tensor) -> Tensor:
        side = shape.grid >> index
        grid = x.unflatten(1, (side, side))
        corners = [grid[:, row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
        x = torch.cat(corners, dim=3).flatten(1, 2)
        x = linear(f"down_blocks.{index}.reduction", modulated(x, *made(f"down_blocks.{index}", 2)))
        return x + weights[f"down_blocks.{index}.pos_embed"]

    def up(index: int, x: Tensor) -> Tensor:
        side = shape.grid >> len(shape.heads) - 1 - index
        parts = linear(f"up_blocks.{index}.expand", x).unflatten(1, (side, side)).chunk(4, dim=3)
        grid = torch.zeros(len(x), 2 * side, 2 * side, parts[0].shape[3])
        for part, (row, column) in zip(parts, ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True):
            grid[:, row::2, column::2] = part
        return grid.flatten(1, 2)

    patches = weights["x_embedder.proj.weight"]
    x = functional.conv2d(latent, patches, weights["x_embedder.proj.bias"], stride=shape.patch)
    x = x.flatten(2).mT + weights["pos_embed"]
    angles = time.float()[:, None] * torch.exp(-math.log(10000) * torch.arange(128) / 128)
    embedded = linear("t_embedder.mlp.0", torch.cat([angles.cos(), angles.sin()], dim=1))
    c = linear("t_embedder.mlp.2", functional.silu(embedded))
    c = functional.silu(c + weights["y_embedder.embedding_table.weight"][label])
    skips, done, lowest = [], 0, len(shape.heads) - 1
    for stage, depth in enumerate(shape.depths):
        if stage < lowest:
            skips.append(x)
        if stage > lowest:
            index = stage - lowest - 1
            name = f"concat_blocks.{index}"
            joined = torch.cat([up(index, x), skips.pop()], dim=2)
            x = linear(f"{name}.cat", modulated(joined, *made(name, 2)))
            x = x + weights[f"{name}.pos_embed"]
        for _ in range(depth):
            x = block(done, x)
            done += 1
        if stage < lowest:
            x = down(stage, x)
    x = linear("final_layer.linear", modulated(x, *made("final_layer", 2)))
    x = x.unflatten(1, (shape.grid, shape.grid)).unflatten(3, (shape.patch, shape.patch, -1))
    x = torch.einsum("nhwpqc->nchpwq", x)
    return x.flatten(4).flatten(2, 3)


def wider(shape: EdtShape = SHAPE) -> EdtShape:
    """With linears that int8 kernels are made for."""
    return dataclasses.replace(shape, head_dim=8)
