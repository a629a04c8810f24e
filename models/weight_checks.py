"""What tensors must be to become a model's weights: all there, of its shapes, dense and finite."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from .. import CheckpointError

CHANGE_CONFIG = "Change {fields} in the config to what the weights were trained with"

# Which fields of the config decide a tensor's shape, by its key.
FIELDS_BY_KEY = {
    r"^pos_embed$": "input_size, patch_size or hidden_size",
    r"^x_embedder\.": "hidden_size, in_channels or patch_size",
    r"^t_embedder\.": "hidden_size",
    r"^y_embedder\.": "num_classes, class_dropout_prob or hidden_size",
    r"relative_position_bias_table$": "input_size, patch_size, stage_heads or stage_depths",
    r"^(down|up|concat)_blocks\..*pos_embed$": "input_size, patch_size or stage_heads",
    r"^(down|up|concat)_blocks\.": "stage_heads or hidden_size",
    r"\.attn\.rel_pos_bias\.": "pswa.window_size, pswa.rel_pos_bias or num_heads",
    r"\.attn\.[qk]_norm\.": "pswa.qk_norm, num_heads or hidden_size",
    r"\.attn\.bridge\.dw\.weight": "pswa.bridge.kernel, pcca.ratios or num_heads",
    r"\.attn\.bridge\.": "pswa.bridge.kind, pswa.bridge.norm, pcca.ratios or num_heads",
    r"\.attn\.qkv\.": "pcca.ratios, pcca.mode, pswa.split, num_heads or hidden_size",
    r"\.mlp\.": "mlp_ratio or hidden_size",
    r"^final_layer\.linear\.": "patch_size, in_channels or learn_sigma",
    r"^final_layer\.": "hidden_size",
    r"^blocks\.": "hidden_size or depth",
    r"": "arch",
}


def odd_keys(found: Iterable[str], wanted: Iterable[str]) -> Iterator[tuple[str, set[str]]]:
    """The keys that are missing and those left over, where there are any."""
    for verb, keys in (
        ("lacks", set(wanted) - set(found)),
        ("has, against its config,", set(found) - set(wanted)),
    ):
        if keys:
            yield verb, keys


def check_dtypes(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights of several dtypes: some were converted, and nothing says which."""
    dtypes = {tensor.dtype: key for key, tensor in tensors.items() if tensor.is_floating_point()}
    if len(dtypes) > 1:
        found = " and ".join(f"{dtype} ({key})" for dtype, key in list(dtypes.items())[:2])
        raise CheckpointError(
            f"{path} mixes {found}",
            "Save all its weights in one dtype, as they were trained",
        )


def check_values(
    path: Path,
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    remedy: str = CHANGE_CONFIG,
) -> None:
    """Refuse a tensor of another shape or kind, or with a number in it that is not finite.

    Args:
        path: Of the file, for the message.
        tensors: The weights.
        expected: Those that must be among them, without numbers.
        remedy: Where a shape does not fit; ``{fields}`` are the fields that decide it.
    """
    for name, wanted in expected.items():
        tensor = tensors[name]
        if tensor.shape != wanted.shape:
            raise CheckpointError(
                f"{name} in {path} has shape {list(tensor.shape)}, "
                f"but its config expects {list(wanted.shape)}",
                remedy.format(fields=fields_of(name)),
            )
        floating = wanted.is_floating_point()
        if tensor.is_floating_point() != floating or tensor.layout != torch.strided:
            raise CheckpointError(
                f"{name} in {path} is {tensor.layout} {tensor.dtype}, not dense "
                f"{'floating-point' if floating else 'integer'} numbers",
                "Save the weights as they were trained, in float32, bfloat16 or float16",
            )
        if not torch.isfinite(tensor.to(wanted.dtype)).all():
            raise CheckpointError(
                f"{name} in {path} holds NaN or infinity",
                "Take a checkpoint from before the training diverged",
            )


def fields_of(key: str) -> str:
    return next(fields for pattern, fields in FIELDS_BY_KEY.items() if re.search(pattern, key))


def check_labels(path: Path, found: object, classes: int) -> tuple[str, ...]:
    if not isinstance(found, list | tuple) or not all(isinstance(label, str) for label in found):
        raise CheckpointError(
            f"The labels of {path} are {found!r}",
            "Save it again with a list of texts, or an empty one",
        )
    if found and len(found) != classes:
        raise CheckpointError(
            f"{path} names {len(found)} labels, but its config has {classes} classes",
            "Save it again with one label for each class",
        )
    return tuple(found)
