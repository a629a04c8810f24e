"""SiT (willisma/SiT): a DiT that predicts the velocity of the straight line from noise to data.

Time runs from 0 at the noise to 1 at the data, and is fed as it is. Files have official DiT's keys
and shapes, a learned sigma that the sampler ignores included, so a bare state dict cannot be told
from a DiT's. A training checkpoint can: its arguments name the path and the prediction.
"""

from __future__ import annotations

from ... import CheckpointError
from ..dit_keys import fits_dit_keys, infer_config
from ..format import Conversion, Format, Hints, Stored

TITLE = "SiT"
ARGUMENTS = {"path_type": "Linear", "prediction": "velocity"}


def fits(stored: Stored) -> bool:
    return fits_dit_keys(stored) and set(ARGUMENTS) <= set(stored.facts)


def convert(stored: Stored, hints: Hints) -> Conversion:
    for name, wanted in ARGUMENTS.items():
        found = stored.facts.get(name, wanted)
        if found != wanted:
            raise CheckpointError(
                f"{stored.path} was trained with {name} {found!r}",
                f"Only {name} {wanted!r} can be sampled here: train or download such a one",
            )
    return Conversion(infer_config(stored, hints, TITLE, prediction_type="velocity", data_at=1))


SIT = Format(
    name="sit",
    title=TITLE,
    licence="SiT's authors publish code and weights under MIT",
    fits=fits,
    convert=convert,
)
