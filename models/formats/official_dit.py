"""Official DiT (facebookresearch/DiT), depth-pruned ones (TinyDiT) too.

Our `Dit` has its keys to the letter, so nothing is renamed.
"""

from __future__ import annotations

from ..dit_keys import fits_dit_keys, infer_config
from ..format import Conversion, Format, Hints, Stored

TITLE = "official DiT"


def convert(stored: Stored, hints: Hints) -> Conversion:
    return Conversion(infer_config(stored, hints, TITLE))


DIT = Format(
    name="dit",
    title=TITLE,
    licence="Meta's published DiT weights are CC-BY-NC 4.0: not for commercial use",
    fits=fits_dit_keys,
    convert=convert,
    note="SiT's published files have the same keys and shapes: if it is one, say `--format sit`",
)
