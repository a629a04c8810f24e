"""A denoiser of the newer kind: RMSNorm, SwiGLU and RoPE, as nodes of an opset that has none.

Its modules go by DiT's names. N batch, T tokens, D channels, H heads, d channels of a head.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import onnx_ir as ir
import torch
from model_helpers import filled
from pass_helpers import Array, noise
from torch import Tensor, nn

from pitstop.export.trace import OPSET, trace_module
from pitstop.graphs.interface import INPUTS, PREDICTION
from pitstop.models.layers import LabelEmbedder, PatchEmbed, TimestepEmbedder, modulate, unpatchify

GRID, PATCH, CHANNELS, WIDTH, HEADS, DEPTH, CLASSES = 4, 2, 3, 32, 4, 2, 5
TOKENS, HEAD = GRID * GRID, WIDTH // HEADS


class RmsNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(dim=-1, keepdim=True) + 1e-6) * self.weight


class Rope(nn.Module):
    """Turn pairs of channels by angles that grow with the token: (N, H, T, d) to itself."""

    def __init__(self) -> None:
        super().__init__()
        angles = torch.outer(torch.arange(TOKENS), 100.0 ** -torch.linspace(0, 1, HEAD // 2))
        self.register_buffer("cos", angles.cos().repeat_interleave(2, dim=1))
        self.register_buffer("sin", angles.sin().repeat_interleave(2, dim=1))

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack([-second, first], dim=-1).flatten(-2)
        return x * self.cos + turned * self.sin


class RopeAttention(nn.Module):
    def __init__(self, normed: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.q_norm = RmsNorm(HEAD) if normed else nn.Identity()
        self.k_norm = RmsNorm(HEAD) if normed else nn.Identity()
        self.rope = Rope()
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).reshape(-1, TOKENS, 3, HEADS, HEAD).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)  # each (N, H, T, d)
        q, k = self.rope(self.q_norm(q)), self.rope(self.k_norm(k))
        weights = ((q * HEAD**-0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(-1, TOKENS, WIDTH))


class SwiGlu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w12 = nn.Linear(WIDTH, 4 * WIDTH)
        self.w3 = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(nn.functional.silu(gate) * value)


class Block(nn.Module):
    def __init__(self, normed: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = RmsNorm(WIDTH), RmsNorm(WIDTH)
        self.attn, self.mlp = RopeAttention(normed), SwiGlu()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 6 * WIDTH))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale, gate, *mlp = self.adaLN_modulation(c).chunk(6, dim=1)
        x = x + gate.unsqueeze(1) * self.attn(modulate(self.norm1(x), shift, scale))
        return x + mlp[2].unsqueeze(1) * self.mlp(modulate(self.norm2(x), mlp[0], mlp[1]))


class FinalLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm_final = RmsNorm(WIDTH)
        self.linear = nn.Linear(WIDTH, PATCH * PATCH * CHANNELS)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 2 * WIDTH))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class RopeDenoiser(nn.Module):
    def __init__(self, normed: bool) -> None:
        super().__init__()
        self.x_embedder = PatchEmbed(PATCH, CHANNELS, WIDTH)
        self.t_embedder = TimestepEmbedder(WIDTH)
        self.y_embedder = LabelEmbedder(CLASSES, WIDTH)
        self.blocks = nn.ModuleList(Block(normed) for _ in range(DEPTH))
        self.final_layer = FinalLayer()

    def forward(self, latent: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
        x = self.x_embedder(latent)  # (N, T, D)
        c = self.t_embedder(timestep) + self.y_embedder(label)  # (N, D)
        for block in self.blocks:
            x = block(x, c)
        return unpatchify(self.final_layer(x, c), (GRID, GRID), PATCH, CHANNELS)


@functools.cache
def rope_network(normed: bool = True) -> RopeDenoiser:
    """With weights drawn from a seed, and a norm for each head's q and k or none."""
    model: RopeDenoiser = filled(RopeDenoiser(normed))
    return model


@functools.cache
def rope_traced(normed: bool = True) -> ir.Model:
    """The graph of `rope_network`, traced once for all tests: they must not change it."""
    side = GRID * PATCH
    example = (torch.zeros(2, CHANNELS, side, side), torch.zeros(2), torch.zeros(2).long())
    return trace_module(rope_network(normed), example, INPUTS, PREDICTION, OPSET)


def rope_feeds() -> Mapping[str, Array]:
    """One call's inputs."""
    latent = noise(2, CHANNELS, GRID * PATCH, GRID * PATCH)
    timestep = torch.tensor([999.0, 341.0]).numpy()
    return {"latent": latent, "timestep": timestep, "label": torch.tensor([1, 4]).numpy()}
