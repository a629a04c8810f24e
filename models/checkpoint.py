"""Read and write checkpoints: safetensors with the config in the metadata, and ``.pt`` to read.

A ``.pt`` file is opened with ``weights_only`` and nothing else: a checkpoint is data, and
unpickling one must not run code. Every tensor's shape is checked against the config.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .classifier import Classifier
from .config import config_from_dict, config_to_dict
from .denoiser import Denoiser, DenoiserConfig
from .dit import Dit, DitConfig
from .errors import CheckpointError
from .pit import Pit, PitConfig

FORMAT_VERSION = 1
SHOWN = 10  # keys named in a message, at most

# Which fields of the config decide a tensor's shape, by its key.
FIELDS_BY_KEY = {
    r"^pos_embed$": "input_size, patch_size or hidden_size",
    r"^x_embedder\.": "hidden_size, in_channels or patch_size",
    r"^t_embedder\.": "hidden_size",
    r"^y_embedder\.": "num_classes, class_dropout_prob or hidden_size",
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


@dataclass(frozen=True)
class Checkpoint:
    """A denoiser with its weights, and what its file says of them.

    Attributes:
        model: In eval mode, float32.
        labels: The names of the classes in order, or empty where the file has none.
        provenance: Where the weights come from, one line; empty where the file does not say.
    """

    model: Denoiser
    labels: tuple[str, ...] = ()
    provenance: str = ""

    @property
    def config(self) -> DenoiserConfig:
        return self.model.config


def build_model(config: DenoiserConfig) -> Denoiser:
    """The network of a config, with PyTorch's default weights."""
    if isinstance(config, PitConfig):
        return Pit(config)
    assert isinstance(config, DitConfig)
    return Dit(config)


def save_checkpoint(
    checkpoint: Checkpoint, path: Path | str, *, dtype: torch.dtype = torch.float32
) -> None:
    """Write ``checkpoint`` as safetensors, whole or not at all.

    Args:
        checkpoint: What to write.
        path: The file; an existing one is replaced.
        dtype: What floating-point weights are stored in. Loading gives float32 back.
    """
    metadata = {
        "format_version": str(FORMAT_VERSION),
        "config": json.dumps(config_to_dict(checkpoint.config)),
        "labels": json.dumps(checkpoint.labels),
        "provenance": checkpoint.provenance,
    }
    _write(checkpoint.model, Path(path), metadata, dtype)


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint: ``.safetensors`` of this package, or ``.pt`` with a config in it.

    Raises:
        CheckpointError: The file is missing, broken, pickles objects, or does not fit its config.
        ConfigError: Its config describes no model.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"There is no checkpoint at {path}", "Name a .safetensors or .pt file, or a preset"
        )
    tensors, metadata = _read_pickle(path) if _is_pickle(path) else _read_safetensors(path)
    config = config_from_dict(metadata["config"])
    expected = _empty_weights(config)
    _check_keys(path, tensors, expected)
    _check_values(path, tensors, expected)
    model = build_model(config)
    model.load_state_dict(tensors)
    labels = _labels(path, metadata.get("labels", ()), config.num_classes)
    return Checkpoint(model.eval(), labels, str(metadata.get("provenance", "")))


def with_input_size(checkpoint: Checkpoint, input_size: tuple[int, int]) -> Checkpoint:
    """The same weights for a latent of another size; the fixed positions are computed anew.

    Raises:
        ConfigError: The patches or windows do not divide that size.
        CheckpointError: A weight depends on the size, such as a global layer's position bias.
    """
    config = dataclasses.replace(checkpoint.config, input_size=input_size)
    model = build_model(config)
    weights = {**checkpoint.model.state_dict(), "pos_embed": model.pos_embed.detach()}
    _check_values(Path("the checkpoint"), weights, _empty_weights(config))
    model.load_state_dict(weights)
    return dataclasses.replace(checkpoint, model=model.eval())


def save_classifier(model: Classifier, path: Path) -> None:
    """Write the judge of the demo's images as safetensors."""
    metadata = {"format_version": str(FORMAT_VERSION), "classes": str(model.head.out_features)}
    _write(model, path, metadata, torch.float32)


def load_classifier(path: Path) -> Classifier:
    """Read what `save_classifier` wrote, in eval mode."""
    with safe_open(path, framework="pt") as file:
        model = Classifier(int(file.metadata()["classes"]))
        model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    return model.eval()


def _write(model: nn.Module, path: Path, metadata: dict[str, str], dtype: torch.dtype) -> None:
    tensors = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in model.state_dict().items()
    }
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        save_file(tensors, beside, metadata)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _is_pickle(path: Path) -> bool:
    return path.suffix in {".pt", ".pth", ".bin", ".ckpt"}


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error})",
            "Copy or download it again; a PyTorch file must end in .pt",
        ) from error
    version = metadata.get("format_version")
    if version != str(FORMAT_VERSION):
        raise CheckpointError(
            f"{path} has format_version {version}, this pitstop reads {FORMAT_VERSION}",
            "Save it with pitstop.models.save_checkpoint, which writes the config beside the "
            "weights"
            if version is None
            else "Install the version of pitstop that wrote it",
        )
    try:
        decoded = {name: json.loads(metadata[name]) for name in ("config", "labels")}
    except (KeyError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} has no readable config in its metadata ({error})",
            "Save it again with pitstop.models.save_checkpoint",
        ) from error
    return tensors, {**decoded, "provenance": metadata.get("provenance", "")}


def _read_pickle(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file makes torch.load raise almost anything
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise CheckpointError(
                f"{path} pickles {refused[1]}, not tensors alone, and could run code when opened",
                "Load it where you trust it and write it with pitstop.models.save_checkpoint",
            ) from error
        raise CheckpointError(
            f"{path} is not a whole PyTorch file", "Copy or download it again"
        ) from error
    config = content.get("config") if isinstance(content, Mapping) else None
    if not isinstance(config, Mapping):
        raise CheckpointError(
            f"{path} has no config beside its weights",
            "Build the model in Python, load the weights, and write it with "
            "pitstop.models.save_checkpoint",
        )
    weights = next((content[name] for name in ("ema", "model") if name in content), None)
    if not isinstance(weights, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in weights.items()
    ):
        raise CheckpointError(
            f"{path} has no weights under 'ema' or 'model' (found: {', '.join(map(str, content))})",
            "Save a dict with 'config' and the state dict under 'ema' or 'model'",
        )
    return dict(weights), dict(content)


def _labels(path: Path, found: object, classes: int) -> tuple[str, ...]:
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


def _empty_weights(config: DenoiserConfig) -> dict[str, Tensor]:
    """The state dict that a config has, with shapes and dtypes and no numbers in it."""
    with torch.device("meta"):
        return build_model(config).state_dict()


def _check_keys(path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for verb, keys in (
        ("lacks", sorted(set(expected) - set(tensors))),
        ("has, against its config,", sorted(set(tensors) - set(expected))),
    ):
        if keys:
            more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
            raise CheckpointError(
                f"{path} {verb} {', '.join(keys[:SHOWN])}{more}",
                f"Check {_fields(keys[0])} in its config",
            )


def _check_values(
    path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> None:
    for name, wanted in expected.items():
        tensor = tensors[name]
        if tensor.shape != wanted.shape:
            raise CheckpointError(
                f"{name} in {path} has shape {list(tensor.shape)}, "
                f"but its config expects {list(wanted.shape)}",
                f"Change {_fields(name)} in the config to what the weights were trained with",
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


def _fields(key: str) -> str:
    return next(fields for pattern, fields in FIELDS_BY_KEY.items() if re.search(pattern, key))
