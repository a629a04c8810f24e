"""The formats of other people's checkpoints, one a file, in the order in which they are tried."""

from __future__ import annotations

import dataclasses

from ... import CheckpointError
from ..format import Format, Hints, Stored, name_some
from .diffusers_dit import DIFFUSERS_DIT
from .edt import EDT
from .official_dit import DIT
from .repa import REPA
from .sit import SIT

# The last is told by the least.
FORMATS: dict[str, Format] = {known.name: known for known in (DIFFUSERS_DIT, EDT, REPA, SIT, DIT)}
LIKE_DIT = (REPA, SIT)  # whose bare weights may have official DiT's keys and no others

LORA = "lora_"  # in the keys of what is added to a model's weights
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
        CheckpointError: None that is known, none that takes a class, or not the one that is said.
    """
    if mark := _why_text(stored):
        raise CheckpointError(
            f"{stored.path} is a text-to-image transformer, not a class-conditional one: "
            f"it has {mark}",
            "Name a denoiser that is asked for a class, such as DiT, SiT, REPA or EDT",
        )
    if hints.format is not None and hints.format not in FORMATS:
        raise CheckpointError(
            f"There is no format called {hints.format!r}",
            f"Choose one of: {', '.join(FORMATS)}",
        )
    if any(".attn.bridge." in key for key in stored.tensors):
        raise CheckpointError(
            f"{stored.path} holds a PiT without its config",
            "Write it with pitstop.models.save_checkpoint, which keeps the config beside the "
            "weights",
        )
    found = next((known for known in FORMATS.values() if known.fits(stored)), None)
    if found is None:
        raise _unknown(stored)
    return found if hints.format is None else _as_told(stored, found, FORMATS[hints.format])


def _unknown(stored: Stored) -> CheckpointError:
    """Why a file is in no format that is known."""
    lora = next((key for key in stored.tensors if LORA in key), None)
    if lora:
        return CheckpointError(
            f"{stored.path} holds a LoRA ({lora}), which changes a model and is none",
            "Merge it into the weights of its model, and save those",
        )
    word = _word_before_a_model(stored)
    if word:
        within = "" if stored.weights in {"", "state_dict"} else f"{stored.weights}."
        return CheckpointError(
            f"{stored.path} has a model behind {word!r} in its keys",
            f"Read it with `--weights {within}{word}`",
        )
    return CheckpointError(
        f"{stored.path} is in no format that is known; it has {name_some(stored.tensors)}",
        "The project's docs/checkpoints.md lists what can be read",
    )


def _word_before_a_model(stored: Stored) -> str | None:
    """The first word of keys that are a model's without it, or None."""
    for word in sorted({key.partition(".")[0] for key in stored.tensors}):
        start = f"{word}."
        inner = {key.removeprefix(start): stored.tensors[key] for key in stored.starting(start)}
        within = dataclasses.replace(stored, tensors=inner)
        if any(known.fits(within) for known in FORMATS.values()):
            return word
    return None


def _as_told(stored: Stored, found: Format, told: Format) -> Format:
    """The format that the user says, where the file does not tell another one."""
    if told is not found and not (found is DIT and told in LIKE_DIT):
        raise CheckpointError(
            f"{stored.path} is a file of {found.title}, as its keys or what is beside them tell, "
            f"not of {told.title}",
            "Leave `--format` out",
        )
    return told


def _why_text(stored: Stored) -> str | None:
    """What says that a denoiser reads a prompt, or None."""
    fields = (name for name in TEXT_FIELDS if stored.facts.get(name) is not None)
    keys = (key for key in stored.tensors if any(part in key for part in READS_TEXT))
    return next(fields, None) or next(keys, None)
