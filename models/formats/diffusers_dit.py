"""A ``DiTTransformer2DModel`` of diffusers: ``config.json`` and its weights.

The same network as official DiT, with three numbers of its own, which stay in the config: the
timestep's frequencies divide by 127 instead of 128, the norm before the MLP has an epsilon of its
own, and guidance acts on all channels of the latent. Each block holds a copy of the embedders;
they must be equal. The positions are not stored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from ... import CheckpointError
from ..dit import DitConfig
from ..dit_keys import find_ratio, infer_classes
from ..format import ANOTHER, Conversion, Format, Hints, Stored

TITLE = "diffusers' DiTTransformer2DModel"
BLOCKS = "transformer_blocks."
EMBEDDERS = "norm1.emb."  # in every block

ONCE = {
    "x_embedder.proj": ("pos_embed.proj",),
    "final_layer.adaLN_modulation.1": ("proj_out_1",),
    "final_layer.linear": ("proj_out_2",),
    "t_embedder.mlp.0": (f"{BLOCKS}0.{EMBEDDERS}timestep_embedder.linear_1",),
    "t_embedder.mlp.2": (f"{BLOCKS}0.{EMBEDDERS}timestep_embedder.linear_2",),
}
TABLE = f"{BLOCKS}0.{EMBEDDERS}class_embedder.embedding_table.weight"
PER_BLOCK = {
    "adaLN_modulation.1": ("norm1.linear",),
    "attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attn.proj": ("attn1.to_out.0",),
    "mlp.fc1": ("ff.net.0.proj",),
    "mlp.fc2": ("ff.net.2",),
}
CLASSES = ("DiTTransformer2DModel", "Transformer2DModel")
FIXED = {  # what a DiT has, and the defaults of a config that leaves it out
    "norm_type": "ada_norm_zero",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_elementwise_affine": False,
}
NORM_EPS = 1e-5
TOGETHER = "Take the config.json that was saved with these weights"
FREQUENCY_DIVISOR = 127


def fits(stored: Stored) -> bool:
    return f"{BLOCKS}0.norm1.linear.weight" in stored.tensors or (
        stored.facts.get("_class_name") in CLASSES
    )


def convert(stored: Stored, hints: Hints) -> Conversion:
    config = read_config(stored, hints)
    sources: dict[str, tuple[str, ...]] = {"pos_embed": ()}
    sources["y_embedder.embedding_table.weight"] = (TABLE,)
    for ours, theirs in _layers(config.depth).items():
        for part in ("weight", "bias"):
            sources[f"{ours}.{part}"] = tuple(f"{key}.{part}" for key in theirs)
    return Conversion(
        config,
        sources,
        dropped=_check_copies(stored, config.depth),
        why_dropped="copies of the embedders",
    )


def read_config(stored: Stored, hints: Hints) -> DitConfig:
    """The config of ours behind ``config.json``; what the shapes say goes first."""
    facts = stored.facts
    if facts.get("_class_name", CLASSES[0]) not in CLASSES:
        raise CheckpointError(
            f"The model in {stored.path} is a {facts['_class_name']}",
            f"Name a folder with one of: {', '.join(CLASSES)}",
        )
    if "_class_name" not in facts:
        raise CheckpointError(
            f"{stored.path} has diffusers' keys, but no config.json beside it",
            "Name the folder that `save_pretrained` wrote",
        )
    for name, wanted in FIXED.items():
        if facts.get(name, wanted) != wanted:
            raise CheckpointError(
                f"The config.json of {stored.path} has {name} {facts[name]!r}",
                f"pitstop reads DiT alone, whose {name} is {wanted!r}",
            )
    depth = stored.count(BLOCKS)
    stored.require(TITLE, _needed_keys(depth))
    width, channels, patch, _ = stored.shape("pos_embed.proj.weight", 4)
    outputs, _ = stored.shape("proj_out_2.weight", 2)
    hidden, _ = stored.shape(f"{BLOCKS}0.ff.net.0.proj.weight", 2)
    heads = _count_heads(stored, hints, width)
    if facts.get("num_layers", depth) != depth:
        raise CheckpointError(
            f"The config.json of {stored.path} has num_layers {facts['num_layers']!r}, but its "
            f"weights have {depth} blocks",
            TOGETHER,
        )
    return DitConfig(
        input_size=(_number(stored, facts, "sample_size"),) * 2,
        patch_size=patch,
        in_channels=channels,
        hidden_size=width,
        depth=depth,
        num_heads=heads,
        mlp_ratio=find_ratio(hidden, width),
        learn_sigma=outputs == 2 * patch * patch * channels,
        cfg_channels=channels,
        timestep_divisor=FREQUENCY_DIVISOR,
        mlp_norm_eps=_epsilon(stored, facts.get("norm_eps", NORM_EPS)),
        **_classes(stored, hints),
    )


def _needed_keys(depth: int) -> set[str]:
    layers = [key for keys in _layers(max(depth, 1)).values() for key in keys]
    return {TABLE, *(f"{key}.{part}" for key in layers for part in ("weight", "bias"))}


def _classes(stored: Stored, hints: Hints) -> dict[str, Any]:
    """What the config says; diffusers' table has a row for no class in any case."""
    if "num_embeds_ada_norm" not in stored.facts:
        return infer_classes(stored, hints, TABLE)
    classes = _number(stored, stored.facts, "num_embeds_ada_norm")
    rows, _ = stored.shape(TABLE, 2)
    if rows != classes + 1:
        raise CheckpointError(
            f"{TABLE} in {stored.path} has {rows} rows, which are not those of the {classes} "
            "classes in its config.json and of one more for no class",
            TOGETHER,
        )
    _refuse_other(stored, "classes", hints.num_classes, classes)
    return infer_classes(stored, dataclasses.replace(hints, num_classes=classes), TABLE)


def _count_heads(stored: Stored, hints: Hints, width: int) -> int:
    """What the config says, which no shape can tell; both of its numbers must fit the width."""
    heads = _number(stored, stored.facts, "num_attention_heads")
    size = stored.facts.get("attention_head_dim", width // max(heads, 1))
    if isinstance(size, int) and heads * size == width:
        _refuse_other(stored, "heads", hints.num_heads, heads)
        return heads
    if hints.num_heads is None:
        raise CheckpointError(
            f"The config.json of {stored.path} has {heads} heads of {size!r} channels, but its "
            f"weights are {width} channels wide",
            "Correct the config.json, or say the heads with `--heads N`",
        )
    return hints.num_heads


def _refuse_other(stored: Stored, what: str, said: int | None, found: int) -> None:
    """Refuse what the user says where the config tells another number."""
    if said not in {None, found}:
        raise CheckpointError(
            f"The config.json of {stored.path} has {found} {what}, not {said}",
            f"Leave `--{what}` out",
        )


def _layers(depth: int) -> dict[str, tuple[str, ...]]:
    """Our layers and those of the file that each is made of."""
    blocks = {
        f"blocks.{index}.{ours}": tuple(f"{BLOCKS}{index}.{key}" for key in theirs)
        for index in range(depth)
        for ours, theirs in PER_BLOCK.items()
    }
    return {**ONCE, **blocks}


def _check_copies(stored: Stored, depth: int) -> frozenset[str]:
    """The embedders of all blocks but the first, which must be those of the first."""
    first, copies = f"{BLOCKS}0.{EMBEDDERS}", set()
    for key in stored.starting(first):
        for index in range(1, depth):
            copy = key.replace(first, f"{BLOCKS}{index}.{EMBEDDERS}")
            if copy not in stored.tensors:
                raise CheckpointError(f"{stored.path} lacks {copy}", ANOTHER)
            if not torch.equal(stored.tensors[copy], stored.tensors[key]):
                raise CheckpointError(
                    f"{copy} in {stored.path} is not equal to {key}: the blocks were trained with "
                    "embedders of their own",
                    "pitstop reads DiT alone, whose blocks share them",
                )
            copies.add(copy)
    return frozenset(copies)


def _number(stored: Stored, facts: Mapping[str, Any], name: str) -> int:
    value = facts.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise CheckpointError(
            f"The config.json of {stored.path} has {name} {value!r} where a number is expected",
            TOGETHER,
        )
    return value


def _epsilon(stored: Stored, value: object) -> float:
    if not isinstance(value, float) or not 0 < value < 1:
        shown = repr(value)[:80] if not isinstance(value, int) else "a whole number"
        raise CheckpointError(
            f"The config.json of {stored.path} has norm_eps {shown} where a number between 0 and 1 "
            "is expected",
            TOGETHER,
        )
    return value


DIFFUSERS_DIT = Format(
    name="diffusers",
    title=TITLE,
    licence="Meta's published DiT weights are CC-BY-NC 4.0: not for commercial use",
    fits=fits,
    convert=convert,
)
