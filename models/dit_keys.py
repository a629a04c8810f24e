"""The config behind a state dict in DiT's own keys, which SiT and REPA share.

Depth, width, patch, grid, classes and learned sigma are in the shapes. The number of heads is not:
the published models have heads of 64 channels, but 72 at a width of 1152.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from .. import CheckpointError
from .denoiser import MAX_TOKENS
from .dit import Dit, DitConfig
from .format import ANOTHER, Hints, Stored
from .positions import Grid, are_sincos

HEAD_SIZE = 64
PUBLISHED_HEAD_SIZES = {1152: 72}  # by width
GUIDED = 3  # channels that DiT's guidance acts on, as many as there are
IMAGENET = 1000  # classes; so many label rows are a model without the null class
BLOCKS = "blocks."
# Parts of keys that only other transformers have, and what they are.
FOREIGN = {
    ".mlp.w12.": "SwiGLU MLPs",
    ".attn.q_norm.": "normalised queries and keys",
    ".norm1.weight": "norms with weights of their own",
    ".feat_rope.": "rotary positions",
    ".rope.": "rotary positions",
    ".rotary_emb.": "rotary positions",
}
UNSHIFTED = 4  # rows of a block's modulation by width, of 6: LightningDiT's `wo_shift`


def fits_dit_keys(stored: Stored) -> bool:
    """Whether a file has a part of each end of a DiT; what else it needs is asked for by name."""
    return bool(stored.starting("x_embedder.proj.")) and any(
        ".adaLN_modulation." in key for key in stored.starting(BLOCKS)
    )


def infer_config(stored: Stored, hints: Hints, title: str, **fields: Any) -> DitConfig:
    """The config of a file in DiT's keys.

    Args:
        stored: The file.
        hints: What the user says.
        title: Of its format.
        fields: What is known of the format: the prediction, the time.

    Raises:
        CheckpointError: A tensor that says something of the model is missing or of no model's
            shape, or the shapes do not tell the number of heads.
        ConfigError: No model is like this.
    """
    _refuse_foreign(stored)
    depth = stored.count(BLOCKS)
    stored.require(title, _needed_keys(depth))
    width, channels, patch, _ = stored.shape("x_embedder.proj.weight", 4)
    rows, columns = _find_grid(stored)
    hidden, _ = stored.shape(f"{BLOCKS}0.mlp.fc1.weight", 2)
    return DitConfig(
        input_size=(rows * patch, columns * patch),
        patch_size=patch,
        in_channels=channels,
        hidden_size=width,
        depth=depth,
        num_heads=_count_heads(stored, hints, width),
        mlp_ratio=find_ratio(hidden, width),
        learn_sigma=_learns_sigma(stored, channels, patch),
        cfg_channels=min(GUIDED, channels),
        **infer_classes(stored, hints, "y_embedder.embedding_table.weight"),
        **fields,
    )


def _refuse_foreign(stored: Stored) -> None:
    for part, what in FOREIGN.items():
        key = next((key for key in stored.tensors if part in f".{key}"), None)
        if key is not None:
            raise _foreign(stored, f"{what} ({key})")
    key = f"{BLOCKS}0.adaLN_modulation.1.weight"
    modulation = stored.tensors.get(key)
    if modulation is not None and modulation.ndim == 2:
        rows, width = modulation.shape
        if rows == UNSHIFTED * width:
            raise _foreign(stored, f"modulations without shift ({rows} rows in {key})")


def _foreign(stored: Stored, what: str) -> CheckpointError:
    return CheckpointError(
        f"{stored.path} has {what}, which no DiT, SiT, REPA or EDT has",
        "It is another model: the project's docs/checkpoints.md lists what can be read",
    )


def _needed_keys(depth: int) -> set[str]:
    """What every file in DiT's keys has, whatever its shapes."""
    with torch.device("meta"):
        return set(Dit(DitConfig(depth=max(depth, 1))).state_dict())


def find_ratio(hidden: int, width: int) -> float:
    """The ratio that gives just ``hidden`` channels, in whole numbers."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _count_heads(stored: Stored, hints: Hints, width: int) -> int:
    """What the user says, else the arguments of the training, else the width."""
    heads = hints.num_heads or stored.facts.get("num_heads")
    if not isinstance(heads, int) or heads < 1:
        return infer_heads(stored, width)
    if width % heads:
        raise CheckpointError(
            f"{stored.path} is {width} channels wide, which do not go into {heads} heads",
            "Say another number with `--heads N`",
        )
    return heads


def infer_heads(stored: Stored, width: int) -> int:
    """The heads of the published models of this width."""
    size = PUBLISHED_HEAD_SIZES.get(width, HEAD_SIZE)
    if width % size:
        raise CheckpointError(
            f"{stored.path} is {width} channels wide, which no published model is, so its shapes "
            "do not tell how many attention heads it has",
            "Say it with `--heads N`",
        )
    return width // size


def infer_classes(stored: Stored, hints: Hints, key: str) -> dict[str, Any]:
    """``num_classes`` and ``class_dropout_prob``: whether the last label row is the null class."""
    rows, _ = stored.shape(key, 2)
    told = hints.num_classes or stored.facts.get("num_classes")
    without_null = rows in {1, IMAGENET}
    classes = told if told and isinstance(told, int) else rows if without_null else rows - 1
    if rows - classes not in {0, 1}:
        raise CheckpointError(
            f"{key} in {stored.path} has {rows} rows, which are not those of {classes} classes, "
            "with or without one more for no class",
            f"Say `--classes {rows - 1}`, or `--classes {rows}` for a model without guidance",
        )
    return {"num_classes": classes, "class_dropout_prob": 0.1 if rows > classes else 0.0}


def _find_grid(stored: Stored) -> Grid:
    """Rows and columns of tokens: those that the positions are DiT's of, else the square's."""
    _, tokens, width = stored.shape("pos_embed", 3)
    side = math.isqrt(tokens)
    square = [(side, side)] if side * side == tokens else []
    pairs = [(one, tokens // one) for one in range(1, side + 1) if tokens % one == 0]
    both_ways = [*square, *pairs, *(pair[::-1] for pair in pairs)]
    if width % 4 == 0 and tokens <= MAX_TOKENS:
        positions = stored.tensors["pos_embed"][:1].float()
        for grid in both_ways:
            if are_sincos(positions, grid):
                return grid
    if not square:
        raise CheckpointError(
            f"pos_embed in {stored.path} has {tokens} tokens, which fill no square, and its "
            "positions are not DiT's of another grid",
            "Export the model for a square image",
        )
    return square[0]


def _learns_sigma(stored: Stored, channels: int, patch: int) -> bool:
    rows, _ = stored.shape("final_layer.linear.weight", 2)
    outputs, rest = divmod(rows, patch * patch)
    if rest or outputs not in {channels, 2 * channels}:
        raise CheckpointError(
            f"final_layer.linear.weight in {stored.path} has {rows} rows, expected "
            f"{patch * patch * channels}, or {2 * patch * patch * channels} with a learned sigma",
            ANOTHER,
        )
    return outputs == 2 * channels
