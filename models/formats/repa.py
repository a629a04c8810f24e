"""REPA (sihyun-yu/REPA): a SiT that was trained with the features of an image encoder.

The projectors towards those features are of no use after training and are dropped. Time runs from
1 at the noise to 0 at the data, the other way round than in SiT; guidance acts on all channels.
Old files count the blocks after the projectors' one as ``decoder_blocks``.
"""

from __future__ import annotations

import dataclasses

from ... import CheckpointError
from ..dit_keys import BLOCKS, fits_dit_keys, infer_config
from ..format import Conversion, Format, Hints, Stored

TITLE = "REPA"
PROJECTORS = "projectors."
LATER_BLOCKS = "decoder_blocks."
ARGUMENTS = {"path_type": "linear", "prediction": "v"}


def fits(stored: Stored) -> bool:
    return fits_dit_keys(stored) and (
        bool(stored.starting(PROJECTORS))
        or "proj_coeff" in stored.facts
        or stored.facts.get("prediction") == ARGUMENTS["prediction"]
    )


def convert(stored: Stored, hints: Hints) -> Conversion:
    for name, wanted in ARGUMENTS.items():
        found = stored.facts.get(name, wanted)
        if found != wanted:
            raise CheckpointError(
                f"{stored.path} was trained with {name} {found!r}",
                f"Only {name} {wanted!r} can be sampled here: train or download such a one",
            )
    config = infer_config(stored, hints, TITLE, prediction_type="velocity", data_at=0)
    first = config.depth  # of the later blocks
    later = stored.count(LATER_BLOCKS)
    block = f"{BLOCKS}0."
    parts = [key.removeprefix(block) for key in stored.starting(block)]
    sources = {
        f"{BLOCKS}{first + index}.{part}": (f"{LATER_BLOCKS}{index}.{part}",)
        for index in range(later)
        for part in parts
    }
    return Conversion(
        dataclasses.replace(config, depth=first + later, cfg_channels=config.in_channels),
        sources,
        dropped=frozenset(stored.starting(PROJECTORS)),
        why_dropped="the projectors, which only training needs",
    )


REPA = Format(
    name="repa",
    title=TITLE,
    licence="REPA's authors publish code and weights under MIT",
    fits=fits,
    convert=convert,
)
