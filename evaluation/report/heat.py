"""The error of each block at each timestep, coloured by how near it is to what is allowed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..accuracy.blocks import BlockErrors

DECADES = 3  # below the limit, where the colour begins


@dataclass(frozen=True)
class Cell:
    """One block at one timestep.

    Attributes:
        error: Relative L2 of what leaves the block; None where the denoiser has no such block.
        heat: 0 to 1: from a thousandth of the limit or less, to the limit or more.
        bad: Whether it is above the limit.
        first: Whether it is the first of its denoiser's.
    """

    error: float | None
    heat: float
    bad: bool
    first: bool


def heat_map(measured: Sequence[BlockErrors]) -> dict[str, list[Cell]]:
    """For each block of the first denoiser a row: for each denoiser a cell for each timestep."""
    return {
        name: [cell for blocks in measured for cell in _cells(blocks, name)]
        for name in measured[0].calls
    }


def _cells(blocks: BlockErrors, name: str) -> list[Cell]:
    errors = blocks.calls.get(name, (None,) * len(blocks.timesteps))
    return [
        Cell(
            error,
            heat(error, blocks.limit),
            error is not None and not error <= blocks.limit,
            not at,
        )
        for at, error in enumerate(errors)
    ]


def heat(error: float | None, limit: float) -> float:
    """Where an error is in the decades below a limit, 0 to 1."""
    if error is None or error == 0.0:
        return 0.0
    if not math.isfinite(error):
        return 1.0
    return min(1.0, max(0.0, 1.0 + math.log10(error / limit) / DECADES))
