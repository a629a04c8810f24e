"""The parts that PiT and DiT share: embeddings, adaLN modulation, MLP and final layer.

Module and parameter names are those of the DiT code (Peebles & Xie, 2022), since they are the
checkpoint's keys. Letters: N batch, T tokens, D channels of a token, P patch side.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

FREQUENCIES = 256  # channels of the sinusoidal timestep embedding
MAX_PERIOD = 10000.0
NORM_EPS = 1e-6


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Shift and scale the tokens (N, T, D) by one vector (N, D) per image: adaLN."""
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


def layer_norm(hidden_size: int) -> nn.LayerNorm:
    """The norm of DiT: without affine parameters, which the modulation replaces."""
    return nn.LayerNorm(hidden_size, elementwise_affine=False, eps=NORM_EPS)


def sincos_positions(hidden_size: int, grid: tuple[int, int]) -> Tensor:
    """The fixed positions of DiT: the first half of the channels encodes the column.

    Computed in float64 and rounded once.

    Args:
        hidden_size: Channels of a token, a multiple of 4.
        grid: Rows and columns of tokens.

    Returns:
        float32 [1, rows * columns, hidden_size], tokens in row-major order.
    """
    rows, columns = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    half = hidden_size // 2
    table = np.concatenate([_sincos(half, columns.ravel()), _sincos(half, rows.ravel())], axis=1)
    return torch.tensor(table.astype(np.float32)).unsqueeze(0)


def _sincos(channels: int, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    omega = 1.0 / MAX_PERIOD ** (np.arange(channels // 2, dtype=np.float64) / (channels / 2.0))
    angles = np.outer(positions, omega)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def relative_places(grid: tuple[int, int]) -> Tensor:
    """int64 [token, token]: the row of a relative position bias's table for query and key."""
    rows, columns = grid
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    down = row.reshape(-1, 1) - row.reshape(1, -1) + rows - 1
    right = column.reshape(-1, 1) - column.reshape(1, -1) + columns - 1
    return down * (2 * columns - 1) + right


class PatchEmbed(nn.Module):
    """Image patches to tokens, row-major: a convolution whose stride is its kernel."""

    def __init__(self, patch_size: int, in_channels: int, hidden_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, hidden_size, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)  # (N, C, rows, columns) -> (N, T, D)


def timestep_frequencies(divisor: int = FREQUENCIES // 2) -> Tensor:
    """float32 [128]: the i-th is ``10000 ** (-i / divisor)``."""
    indices = torch.arange(FREQUENCIES // 2, dtype=torch.float32)
    return torch.exp(-math.log(MAX_PERIOD) * indices / divisor)


class TimestepEmbedder(nn.Module):
    """Timesteps to vectors: cosines and sines of 128 frequencies, then an MLP."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(FREQUENCIES, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )
        self.register_buffer("frequencies", timestep_frequencies(), persistent=False)
        self.frequencies: Tensor

    def forward(self, t: Tensor) -> Tensor:
        angles = t.float()[:, None] * self.frequencies[None]  # (N, 128)
        return self.mlp(torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1))  # (N, D)


class LabelEmbedder(nn.Module):
    """Class labels to vectors; the row after the last class stands for "no label"."""

    def __init__(self, rows: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(rows, hidden_size)

    def forward(self, labels: Tensor) -> Tensor:
        return self.embedding_table(labels)  # (N, D)


class Mlp(nn.Module):
    """The feed-forward half of a block, with tanh-GELU."""

    def __init__(self, hidden_size: int, mlp_ratio: float) -> None:
        super().__init__()
        inner = int(hidden_size * mlp_ratio)
        self.fc1 = nn.Linear(hidden_size, inner)
        self.act = nn.GELU(approximate="tanh")
        self.fc2 = nn.Linear(inner, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class AdaLNBlock(nn.Module):
    """A transformer block with adaLN-Zero around any token mixer ``attn``: (N, T, D) to itself.

    The condition vector is as wide as the tokens, or has ``condition`` channels.
    """

    def __init__(
        self, attn: nn.Module, hidden_size: int, mlp_ratio: float, condition: int | None = None
    ) -> None:
        super().__init__()
        self.norm1 = layer_norm(hidden_size)
        self.attn = attn
        self.norm2 = layer_norm(hidden_size)
        self.mlp = Mlp(hidden_size, mlp_ratio)
        self.adaLN_modulation = nn.Sequential(
            nn.SiLU(), nn.Linear(condition or hidden_size, 6 * hidden_size)
        )

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        modulation = self.adaLN_modulation(c).chunk(6, dim=1)  # 6 of (N, D)
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = modulation
        x = x + gate_msa.unsqueeze(1) * self.attn(modulate(self.norm1(x), shift_msa, scale_msa))
        return x + gate_mlp.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp))


class FinalLayer(nn.Module):
    """Tokens to the pixels of their patches: (N, T, D) to (N, T, P * P * channels)."""

    def __init__(self, hidden_size: int, patch_size: int, out_channels: int) -> None:
        super().__init__()
        self.norm_final = layer_norm(hidden_size)
        self.linear = nn.Linear(hidden_size, patch_size * patch_size * out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 2 * hidden_size))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


def unpatchify(x: Tensor, grid: tuple[int, int], patch_size: int, channels: int) -> Tensor:
    """Tokens (N, T, P * P * channels), the channel fastest, to an image (N, channels, H, W)."""
    rows, columns = grid
    x = x.reshape(-1, rows, columns, patch_size, patch_size, channels)
    x = x.permute(0, 5, 1, 3, 2, 4)  # (N, channels, rows, P, columns, P)
    return x.reshape(-1, channels, rows * patch_size, columns * patch_size)
