"""EDT (arXiv 2410.23788), with the official keys: a U of transformer stages.

Stages on the way down halve the grid and widen the tokens, those on the way up do the opposite.
Each stage on the way up is given the input of its mirror image on the way down (a long skip). The
blocks are DiT's with a bias per head and relative position in their attention, over the whole grid
of their stage. One condition vector, as wide as the first stage, serves all.

Letters: N batch, T tokens, D channels before a change of grid and E after it, R rows and C columns
of the smaller grid, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from .amm import AmmConfig, attention_modulation, check_amm
from .denoiser import Denoiser, DenoiserConfig, require
from .dit import Attention
from .layers import AdaLNBlock, layer_norm, modulate, relative_places, sincos_positions

Grid = tuple[int, int]


@dataclass(frozen=True)
class Stage:
    """Blocks on one grid.

    Attributes:
        grid: Rows and columns of tokens.
        width: Channels of a token.
        heads: Attention heads.
        depth: Blocks.
    """

    grid: Grid
    width: int
    heads: int
    depth: int


@dataclass(frozen=True)
class EdtConfig(DenoiserConfig):
    """The shape of an EDT; the defaults are the S size at 256 px.

    ``hidden_size`` and ``num_heads`` are those of the first stage, and all heads are of one size.

    Attributes:
        stage_heads: Attention heads of the stages on the way down, the lowest one the last.
        stage_depths: Blocks of all stages, down and up again.
        amm: The modulation of the attention, which is no part of the weights.
    """

    arch: ClassVar[str] = "edt"
    tiles: ClassVar[str] = "the tokens of EDT's lowest stage"

    hidden_size: int = 312
    stage_heads: tuple[int, ...] = (6, 8, 10)
    stage_depths: tuple[int, ...] = (2, 2, 2, 3, 3)
    amm: AmmConfig = field(default_factory=AmmConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        levels = len(self.stage_heads)
        require(
            levels >= 2 and self.stage_heads[0] == self.num_heads and min(self.stage_heads) >= 1,
            f"stage_heads is {self.stage_heads}",
            f"two numbers or more, num_heads {self.num_heads} the first",
        )
        require(
            len(self.stage_depths) == 2 * levels - 1
            and min(self.stage_depths) >= 1
            and sum(self.stage_depths) == self.depth,
            f"stage_depths is {self.stage_depths}",
            f"{2 * levels - 1} numbers that add up to depth {self.depth}",
        )
        require(
            all(heads * self.head_dim % 4 == 0 for heads in self.stage_heads),
            f"stage_heads is {self.stage_heads}",
            f"a multiple of 4 channels in each stage, of {self.head_dim} a head",
        )
        for side in self.grid:
            require(
                side % 2 ** (levels - 1) == 0,
                f"grid of {self.grid[0]} x {self.grid[1]} tokens",
                f"one that can be halved {levels - 1} times",
            )
        check_amm(self.amm, self, self.block_grids)

    @property
    def divisor(self) -> int:
        return self.patch_size * 2 ** (len(self.stage_heads) - 1)

    @property
    def stages(self) -> tuple[Stage, ...]:
        levels = len(self.stage_heads)
        level_of_stage = [*range(levels), *reversed(range(levels - 1))]
        rows, columns = self.grid
        return tuple(
            Stage(
                (rows >> level, columns >> level),
                self.stage_heads[level] * self.head_dim,
                self.stage_heads[level],
                depth,
            )
            for level, depth in zip(level_of_stage, self.stage_depths, strict=True)
        )

    @property
    def block_grids(self) -> list[Grid]:
        return [stage.grid for stage in self.stages for _ in range(stage.depth)]


class RelativePositionBias(nn.Module):
    """One learned number per head and offset between two tokens of a grid."""

    def __init__(self, grid: Grid, heads: int) -> None:
        super().__init__()
        rows, columns = grid
        offsets = (2 * rows - 1) * (2 * columns - 1)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(offsets, heads))
        self.register_buffer("index", relative_places(grid), persistent=False)
        self.index: Tensor

    def forward(self) -> Tensor:
        return self.relative_position_bias_table[self.index].permute(2, 0, 1)  # (H, T, T)


class Modulation(nn.Sequential):
    """Shift and scale of so many channels each, from the condition vector."""

    def __init__(self, condition: int, width: int) -> None:
        super().__init__(nn.SiLU(), nn.Linear(condition, 2 * width))


def fixed_positions(width: int, grid: Grid) -> nn.Parameter:
    """DiT's positions as a parameter: official checkpoints hold them."""
    return nn.Parameter(sincos_positions(width, grid), requires_grad=False)


class DownSample(nn.Module):
    """Four neighbours become one token: (N, T, D) to (N, T / 4, E).

    Their channels stand side by side in the order above left, below left, above right, below
    right.
    """

    def __init__(self, before: Stage, after: Stage, condition: int) -> None:
        super().__init__()
        self.grid = after.grid
        self.norm = layer_norm(4 * before.width)
        self.adaLN_modulation = Modulation(condition, 4 * before.width)
        self.reduction = nn.Linear(4 * before.width, after.width, bias=False)
        self.pos_embed = fixed_positions(after.width, after.grid)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        rows, columns = self.grid
        width = x.shape[2]
        x = x.reshape(-1, rows, 2, columns, 2, width)
        x = x.permute(0, 1, 3, 4, 2, 5).reshape(-1, rows * columns, 4 * width)  # (N, R * C, 4 D)
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
        return self.reduction(modulate(self.norm(x), shift, scale)) + self.pos_embed


class UpSample(nn.Module):
    """One token becomes four neighbours: (N, T, D) to (N, 4 T, E)."""

    def __init__(self, before: Stage, after: Stage) -> None:
        super().__init__()
        self.grid = before.grid
        self.expand = nn.Linear(before.width, 4 * after.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.grid
        x = self.expand(x)  # (N, T, 4 E): above left, above right, below left, below right
        width = x.shape[2] // 4
        x = x.reshape(-1, rows, columns, 2, 2, width).permute(0, 1, 3, 2, 4, 5)
        return x.reshape(-1, 4 * rows * columns, width)


class ConcatLayer(nn.Module):
    """The tokens from below and the long skip, in one: twice (N, T, D) to (N, T, D)."""

    def __init__(self, stage: Stage, condition: int) -> None:
        super().__init__()
        self.norm = layer_norm(2 * stage.width)
        self.adaLN_modulation = Modulation(condition, 2 * stage.width)
        self.cat = nn.Linear(2 * stage.width, stage.width)
        self.pos_embed = fixed_positions(stage.width, stage.grid)

    def forward(self, x: Tensor, skip: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
        x = self.norm(torch.cat([x, skip], dim=2))  # (N, T, 2 D)
        return self.cat(modulate(x, shift, scale)) + self.pos_embed


class Edt(Denoiser):
    """The EDT denoiser."""

    def __init__(self, config: EdtConfig) -> None:
        super().__init__(config, ())
        stages, condition = config.stages, config.hidden_size
        self.depths = config.stage_depths
        self.blocks = nn.ModuleList(
            build_block(config, stage, index)
            for index, stage in enumerate(stage for stage in stages for _ in range(stage.depth))
        )
        lowest = len(stages) // 2
        down, up = stages[: lowest + 1], stages[lowest:]
        self.down_blocks = nn.ModuleList(
            DownSample(before, after, condition) for before, after in pairwise(down)
        )
        self.up_blocks = nn.ModuleList(UpSample(before, after) for before, after in pairwise(up))
        self.concat_blocks = nn.ModuleList(ConcatLayer(stage, condition) for stage in up[1:])

    def through_blocks(self, x: Tensor, c: Tensor) -> Tensor:
        skips: list[Tensor] = []
        lowest = len(self.depths) // 2
        blocks = iter(self.blocks)
        for number, depth in enumerate(self.depths):
            if number > lowest:
                x = self.up_blocks[number - lowest - 1](x)
                x = self.concat_blocks[number - lowest - 1](x, skips.pop(), c)
            elif number < lowest:
                skips.append(x)
            for _ in range(depth):
                x = next(blocks)(x, c)  # (N, T, D) of the stage
            if number < lowest:
                x = self.down_blocks[number](x, c)
        return x


def build_block(config: EdtConfig, stage: Stage, index: int) -> AdaLNBlock:
    """The block of that number among all, in its stage."""
    amm = None
    if index in config.amm.blocks:
        amm = attention_modulation(stage.grid[0], config.amm.form)
    bias = RelativePositionBias(stage.grid, stage.heads)
    attention = Attention(stage.width, stage.heads, bias, amm)
    return AdaLNBlock(attention, stage.width, config.mlp_ratio, config.hidden_size)
