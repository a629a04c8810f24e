"""Official EDT (arXiv 2410.23788): its stages are told by the keys and shapes.

Our `Edt` has its keys to the letter. The table of relative positions in each block says its grid
and its heads, so nothing of a size's name is trusted: the authors' code and figures do not agree
on the depths of XL's stages. The modulation of the attention (AMM) is no part of the weights; it
is set as the authors do for a guidance scale of 2 and above.
"""

from __future__ import annotations

import dataclasses
import math
from itertools import groupby
from typing import Any

from ... import CheckpointError
from ..amm import modulation_of, published_blocks
from ..denoiser import DenoiserConfig
from ..dit_keys import BLOCKS, fits_dit_keys, infer_config
from ..edt import EdtConfig
from ..format import ANOTHER, Conversion, Format, Hints, Stored

TITLE = "official EDT"
TABLE = "attn.rel_pos_bias.relative_position_bias_table"
BETWEEN = ("down_blocks.", "concat_blocks.", "up_blocks.")  # the stages

Kind = tuple[int, int]
"""Of a block: the rows of its table of relative positions, and its heads."""


def fits(stored: Stored) -> bool:
    return fits_dit_keys(stored) and any(
        key.startswith(BETWEEN) or key.endswith(TABLE) for key in stored.tensors
    )


def convert(stored: Stored, hints: Hints) -> Conversion:
    stages = [(kind, len(list(blocks))) for kind, blocks in groupby(_kinds(stored))]
    kinds = [kind for kind, _ in stages]
    if len(stages) < 3 or kinds != kinds[::-1]:
        raise CheckpointError(
            f"The blocks of {stored.path} form stages with grids of "
            f"{', '.join(str(_side(rows)) for rows, _ in kinds)} tokens, which do not halve and "
            "double again",
            ANOTHER,
        )
    heads = tuple(heads for _, heads in kinds[: len(stages) // 2 + 1])
    shared = infer_config(stored, dataclasses.replace(hints, num_heads=heads[0]), TITLE)
    config = EdtConfig(
        **_fields_of(shared),
        stage_heads=heads,
        stage_depths=tuple(depth for _, depth in stages),
    )
    blocks = published_blocks(config.stage_depths, config.grid).guided
    return Conversion(dataclasses.replace(config, amm=modulation_of(blocks, config.grid)))


def _kinds(stored: Stored) -> list[Kind]:
    """Of all blocks in order.

    Raises:
        CheckpointError: A table is missing, so that the stages cannot be told.
    """
    blocks = [f"{BLOCKS}{index}." for index in range(max(stored.count(BLOCKS), 1))]
    if any(block + TABLE not in stored.tensors for block in blocks):
        parts = {TABLE, *(key.split(".", 2)[-1] for key in stored.starting(BLOCKS))}
        wanted = {block + part for block in blocks for part in parts}
        stored.require(TITLE, wanted)
    rows_and_heads = (stored.shape(block + TABLE, 2) for block in blocks)
    return [(rows, heads) for rows, heads in rows_and_heads]


def _side(rows: int) -> int:
    """Tokens along one side of a grid with so many relative positions."""
    return (math.isqrt(rows) + 1) // 2


def _fields_of(config: DenoiserConfig) -> dict[str, Any]:
    """What all configs have."""
    names = [field.name for field in dataclasses.fields(DenoiserConfig)]
    return {name: getattr(config, name) for name in names}


EDT = Format(
    name="edt",
    title=TITLE,
    licence="EDT's authors publish their code under Apache 2.0; of the weights no licence is known",
    fits=fits,
    convert=convert,
)
