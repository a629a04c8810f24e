"""A denoiser's positions on another grid: computed anew where they are DiT's, else interpolated."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .layers import sincos_positions

Grid = tuple[int, int]

# How far positions may be from DiT's, by the type that they were stored in: its rounding. In
# float32 also that of code which computes the angles in it.
ROUNDING = {torch.float32: 1e-4, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def are_sincos(positions: Tensor, grid: Grid) -> bool:
    """Whether positions are DiT's, whatever type they were stored in.

    Args:
        positions: float32 [1, rows * columns, channel].
        grid: Rows and columns of tokens.
    """
    away = (positions - sincos_positions(positions.shape[2], grid)).abs().max().item()
    return any(
        away <= most and torch.equal(positions, positions.to(dtype).float())
        for dtype, most in ROUNDING.items()
    )


def resample_positions(positions: Tensor, grid: Grid, new_grid: Grid) -> Tensor:
    """Interpolate positions as timm's ``resample_abs_pos_embed`` does.

    Bicubic in float32, a token's place its middle (``align_corners`` off), and where the grid gets
    smaller each new token averages over those that it stands for (``antialias`` on).

    Args:
        positions: float32 [1, rows * columns, channel], tokens in row-major order.
        grid: Their rows and columns.
        new_grid: Those of what is returned.
    """
    image = positions.reshape(1, *grid, -1).permute(0, 3, 1, 2)  # (1, D, rows, columns)
    image = functional.interpolate(image, size=new_grid, mode="bicubic", antialias=True)
    return image.permute(0, 2, 3, 1).reshape(1, new_grid[0] * new_grid[1], -1).contiguous()
