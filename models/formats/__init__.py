"""The formats of other people's checkpoints, one a file, in the order in which they are tried."""

from __future__ import annotations

from ..errors import CheckpointError
from ..format import NOT_WHOLE, Format, Hints, Stored, name_some
from .diffusers_dit import DIFFUSERS_DIT
from .edt import EDT
from .official_dit import DIT
from .repa import REPA
from .sit import SIT

# The last is told by the least.
FORMATS: dict[str, Format] = {known.name: known for known in (DIFFUSERS_DIT, EDT, REPA, SIT, DIT)}

# Parts of keys, and fields of a config.json, that only transformers with a prompt have.
READS_TEXT = (
    "attn2.", "cross_attn.", "caption_projection.", "cap_embedder.", "context_embedder.",
    "text_embedder.", "txt_in.", "y_embedder.y_proj.", "joint_blocks.", "double_blocks.",
    "text_proj.",
)  # fmt: skip
TEXT_FIELDS = (
    "cross_attention_dim", "caption_channels", "joint_attention_dim", "text_embed_dim", "text_dim",
    "cap_feat_dim",
)  # fmt: skip


def recognise(stored: Stored, hints: Hints) -> Format:
    """The format of a file, as the user says or as its keys do.

    Raises:
        CheckpointError: None that is known, or none that takes a class.
    """
    if mark := _why_text(stored):
        raise CheckpointError(
            f"{stored.path} is a text-to-image transformer, not a class-conditional one: "
            f"it has {mark}",
            "Name a denoiser that is asked for a class, such as DiT, SiT, REPA or EDT",
        )
    if hints.format is not None:
        if hints.format not in FORMATS:
            raise CheckpointError(
                f"There is no format called {hints.format!r}",
                f"Choose one of: {', '.join(FORMATS)}",
            )
        return FORMATS[hints.format]
    if any(".attn.bridge." in key for key in stored.tensors):
        raise CheckpointError(
            f"{stored.path} holds a PiT without its config",
            "Write it with pitstop.models.save_checkpoint, which keeps the config beside the "
            "weights",
        )
    for known in FORMATS.values():
        if known.fits(stored):
            return known
    raise CheckpointError(
        f"{stored.path} is in no format that is known; it has {name_some(stored.tensors)}",
        NOT_WHOLE,
    )


def _why_text(stored: Stored) -> str | None:
    """What says that a denoiser reads a prompt, or None."""
    fields = (name for name in TEXT_FIELDS if stored.facts.get(name) is not None)
    keys = (key for key in stored.tensors if any(part in key for part in READS_TEXT))
    return next(fields, None) or next(keys, None)
