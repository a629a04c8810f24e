"""EDT's attention modulation matrix (AMM): attention fades with distance, without any training.

In a few blocks the softmax is multiplied by a fixed matrix, and not normalised again. With ``d``
the distance of two tokens on a grid of n x n:

    M(d) = exp(cos(f d)) / 2    or  1.3 cos(f d) at 512 px,    f = 2 pi / (4 (n - 1) sqrt(2))

and 0 beyond the distance of a corner to the last token of the third row. A weight may grow: M(0)
is e / 2. For samples alone; a model is trained without it. It goes into any plain attention over a
square grid, a DiT's too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from .. import ConfigError
from .denoiser import BLOCK_NUMBER, DenoiserConfig, require, require_one_of

AmmForm = Literal["exp", "cos"]
LONGEST = 80  # characters of what was asked for, in a message
LARGE_GRID = 32  # tokens along a side: 512 px
HEIGHT = {"exp": 0.5, "cos": 1.3}


@dataclass(frozen=True)
class AmmConfig:
    """Where attention is modulated.

    Attributes:
        blocks: Their indices, counted from 0 over all blocks; none where it is off.
        form: The curve over the distance.
    """

    blocks: tuple[int, ...] = ()
    form: AmmForm = "exp"

    def __post_init__(self) -> None:
        require_one_of("amm.form", self.form, get_args(AmmForm))
        require(
            list(self.blocks) == sorted(set(self.blocks)),
            f"amm.blocks is {self.blocks}",
            "in rising order, each once",
        )


@dataclass(frozen=True)
class Published:
    """The blocks that EDT's authors modulate.

    Attributes:
        guided: For a guidance scale of 2 and above.
        weak: For one up to 1.5.
    """

    guided: tuple[int, ...]
    weak: tuple[int, ...]


SMALL = (2, 2, 2, 3, 3)  # blocks of the stages of S and B
# By the stages of an EDT and the side of its grid. XL's, for both depths that its authors name,
# and those of 512 px are for any guidance.
PUBLISHED: dict[tuple[tuple[int, ...], int], Published] = {
    (SMALL, 16): Published(guided=(8,), weak=(7, 10)),
    (SMALL, 32): Published(guided=(10,), weak=(10,)),
    ((6, 4, 4, 7, 7), 16): Published(guided=(23, 25), weak=(23, 25)),
    ((6, 6, 4, 6, 6), 16): Published(guided=(23, 25), weak=(23, 25)),
}
NONE_PUBLISHED = Published((), ())


def published_blocks(stages: Sequence[int], grid: tuple[int, int]) -> Published:
    """The rule of EDT's authors for the blocks of these stages; no blocks where there is none.

    Theirs at 512 px is for the S size; B has its depth and so its rule.
    """
    if grid[0] != grid[1]:
        return NONE_PUBLISHED
    return PUBLISHED.get((tuple(stages), grid[0]), NONE_PUBLISHED)


def modulation_of(blocks: Sequence[int], grid: tuple[int, int]) -> AmmConfig:
    """Modulation in ``blocks``, in the form that is published for that size of grid."""
    if not blocks:
        return AmmConfig()
    return AmmConfig(tuple(sorted(set(blocks))), "cos" if max(grid) >= LARGE_GRID else "exp")


def choose_amm(asked: str, config: DenoiserConfig) -> AmmConfig:
    """The modulation that a user asks for.

    Args:
        asked: ``auto`` and ``weak`` for the authors' blocks at a guidance scale of 2 and above and
            of up to 1.5, ``off``, or block numbers such as ``8,10``.
        config: Of the model.

    Raises:
        ConfigError: It is none of these, or nothing is published for such a model.
    """
    if asked == "off":
        return AmmConfig()
    if asked in {"auto", "weak"}:
        stages: tuple[int, ...] = getattr(config, "stage_depths", ())  # of an EDT alone
        published = published_blocks(stages, config.grid)
        if published == NONE_PUBLISHED:
            raise ConfigError(
                f"No attention modulation is published for {config.arch} with {config.depth} "
                f"blocks and {config.grid[0]} x {config.grid[1]} tokens",
                "Name the blocks, such as `--amm 8,10`, or say `--amm off`",
            )
        return modulation_of(published.guided if asked == "auto" else published.weak, config.grid)
    numbers = asked.split(",")
    require(
        all(BLOCK_NUMBER.fullmatch(number.strip()) for number in numbers),
        f"amm is {asked[:LONGEST]!r}",
        "auto, weak, off or block numbers such as 8,10",
    )
    return modulation_of([int(number) for number in numbers], config.grid)


def check_amm(amm: AmmConfig, config: DenoiserConfig, grids: Sequence[tuple[int, int]]) -> None:
    """Refuse blocks that a model does not have, or whose grid the matrix is not made for.

    Args:
        amm: What is asked for.
        config: Of the model.
        grids: Rows and columns of tokens in each block.
    """
    require(
        all(0 <= block < config.depth for block in amm.blocks),
        f"amm.blocks is {amm.blocks}",
        f"block indices from 0 to {config.depth - 1}",
    )
    for block in amm.blocks:
        rows, columns = grids[block]
        require(
            rows == columns >= 2,
            f"amm.blocks has block {block} with a grid of {rows} x {columns} tokens",
            "blocks of square grids, of 2 x 2 tokens at least",
        )


def attention_modulation(side: int, form: AmmForm) -> Tensor:
    """float32 [1, 1, side * side, side * side], for tokens in row-major order."""
    row, column = (axis.ravel() for axis in np.mgrid[:side, :side])
    squared = np.subtract.outer(row, row) ** 2 + np.subtract.outer(column, column) ** 2
    frequency = 2 * math.pi / (4 * (side - 1) * math.sqrt(2))
    wave = np.cos(frequency * np.sqrt(squared))
    curve = HEIGHT[form] * (np.exp(wave) if form == "exp" else wave)
    # Whole numbers, so that the tokens just at the cut are kept.
    curve[squared > 2**2 + (side - 1) ** 2] = 0.0
    return torch.tensor(curve.astype(np.float32))[None, None]
