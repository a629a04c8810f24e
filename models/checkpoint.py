"""Read and write checkpoints: safetensors with the config in the metadata, other formats to read.

`weight_file` opens a file and `formats` knows other people's keys; here every tensor is held
against its config, and the model is filled with it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .. import CheckpointError
from .amm import choose_amm
from .checkpoint_files import read_stored
from .classifier import Classifier
from .config import ARCHITECTURES, config_from_dict, config_to_dict
from .denoiser import Denoiser, DenoiserConfig
from .dit import DitConfig
from .edt import EdtConfig
from .format import ANOTHER, Conversion, Format, Hints, Stored, name_some
from .formats import recognise
from .positions import are_sincos, resample_positions
from .weight_checks import check_dtypes, check_labels, check_values, fields_of, odd_keys
from .whole_file import whole_file

FORMAT_VERSION = 1
NO_HINTS = Hints()
TAKE_OUT = (
    "Take them out of the file where the model draws the same without them (a step count), and "
    "merge a LoRA's into its weights; else it is another model, and the project's "
    "docs/checkpoints.md lists what can be read"
)
ONE_SIZE = "Leave `--image-size` out: this weight belongs to one size"


@dataclass(frozen=True)
class Checkpoint:
    """A denoiser with its weights, and what its file says of them.

    Attributes:
        model: In eval mode, float32.
        labels: The names of the classes in order, or empty where the file has none.
        provenance: Where the weights come from, one line; empty where the file does not say.
        licence: What is known of the weights' licence; empty where nothing is.
        format: Of its file, a name in `models.formats.FORMATS`; empty for our own.
        notes: What a user should know of how the file was read.
        weights: Which of its file's sets was asked for; empty where none was.
        variant: Which of its folder's variants was asked for; empty where none was.
    """

    model: Denoiser
    labels: tuple[str, ...] = ()
    provenance: str = ""
    licence: str = ""
    format: str = ""
    notes: tuple[str, ...] = ()
    weights: str = ""
    variant: str = ""

    @property
    def config(self) -> DenoiserConfig:
        return self.model.config


def build_model(config: DenoiserConfig) -> Denoiser:
    """The network of a config, with PyTorch's default weights."""
    _, network = ARCHITECTURES[config.arch]
    return network(config)


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
        "licence": checkpoint.licence,
    }
    _write(checkpoint.model, Path(path), metadata, dtype)


def load_checkpoint(path: Path | str, hints: Hints = NO_HINTS) -> Checkpoint:
    """Read a checkpoint, of this package or in one of the formats of `models.formats`.

    Weights in float32 stay mapped from the file: it must not be changed while they are in use.

    Args:
        path: A file, or a folder of diffusers.
        hints: What the file cannot tell by itself, where it is not of this package.

    Raises:
        CheckpointError: The file is missing, broken, pickles objects, is in no format that is
            known, or does not fit its config.
        ConfigError: Its config describes no model.
    """
    stored = read_stored(Path(path), hints)
    facts = _decode(stored)
    if _is_ours(Path(path), facts):
        loaded = _load_ours(stored, facts, hints)
    else:
        loaded = _load_theirs(stored, recognise(stored, hints), hints)
    loaded = checked(loaded, str(path), hints)
    return dataclasses.replace(loaded, weights=hints.weights or "", variant=hints.variant or "")


def checked(checkpoint: Checkpoint, name: str, hints: Hints) -> Checkpoint:
    """The checkpoint, where what the user says of it is so.

    Raises:
        CheckpointError: It is in another format, or has other heads or classes; ``name`` is what
            the message calls it.
    """
    if hints.format is not None and hints.format != checkpoint.format:
        raise CheckpointError(
            f"{name} is pitstop's own, in no other format", "Leave `--format` out"
        )
    for field, option in (("num_heads", "--heads"), ("num_classes", "--classes")):
        said, found = getattr(hints, field), getattr(checkpoint.config, field)
        if said not in {None, found}:
            raise CheckpointError(
                f"{name} has {field} {found}, not {said}", f"Leave `{option}` out"
            )
    return checkpoint


def _is_ours(path: Path, facts: Mapping[str, Any]) -> bool:
    """Whether a config of ours is in a file; other people's training scripts keep one too."""
    config = facts.get("config")
    told = isinstance(config, Mapping) and ("arch" in config or "format_version" in facts)
    return told and not path.is_dir()


def _load_ours(stored: Stored, facts: Mapping[str, Any], hints: Hints) -> Checkpoint:
    check_dtypes(stored.path, stored.tensors)
    config = config_from_dict(facts["config"])
    expected = _empty_weights(config)
    for verb, keys in odd_keys(stored.tensors, expected):
        raise CheckpointError(
            f"{stored.path} {verb} {name_some(keys)}",
            f"Check {fields_of(min(keys))} in its config"
            + ("" if keys <= expected.keys() else ", or take them out of the file"),
        )
    check_values(stored.path, stored.tensors, expected)
    labels = check_labels(stored.path, facts.get("labels", ()), config.num_classes)
    return Checkpoint(
        _fill(config, stored.tensors),
        labels,
        str(facts.get("provenance", "")),
        licence=str(facts.get("licence", "")),
        notes=tuple(_notes_of_sets(stored, hints)),
    )


def _load_theirs(stored: Stored, known: Format, hints: Hints) -> Checkpoint:
    check_dtypes(stored.path, stored.tensors)
    conversion = known.convert(stored, hints)
    expected = _empty_weights(conversion.config)
    sources = {key: conversion.sources.get(key, (key,)) for key in expected}
    wanted = {source for keys in sources.values() for source in keys}
    found = set(stored.tensors) - conversion.dropped
    for verb, keys in odd_keys(found, wanted):
        raise CheckpointError(
            f"{stored.path}, read as {known.title}, {verb} {name_some(keys)}",
            ANOTHER if keys <= wanted else TAKE_OUT,
        )
    tensors = {key: _join(stored, keys) for key, keys in sources.items() if keys}
    given = {key: expected[key] for key in tensors}
    check_values(stored.path, tensors, given, ANOTHER)
    return Checkpoint(
        _fill(conversion.config, tensors),
        provenance=f"a file of {known.title}",
        licence=known.licence,
        format=known.name,
        notes=tuple(_notes(stored, known, conversion, hints)),
    )


def _join(stored: Stored, keys: Sequence[str]) -> Tensor:
    """The tensors of several keys along the first side; one alone stays mapped from the file."""
    tensors = [stored.tensors[key] for key in keys]
    if len(tensors) == 1:
        return tensors[0]
    sides = {tuple(tensor.shape[1:]) for tensor in tensors}
    if len({tensor.dtype for tensor in tensors}) > 1:
        raise CheckpointError(
            f"{', '.join(keys)} in {stored.path} are "
            f"{', '.join(str(tensor.dtype) for tensor in tensors)}, which do not join",
            ANOTHER,
        )
    if len(sides) > 1 or not tensors[0].ndim:
        raise CheckpointError(
            f"{', '.join(keys)} in {stored.path} have shapes "
            f"{', '.join(str(list(tensor.shape)) for tensor in tensors)}, which do not join",
            ANOTHER,
        )
    return torch.cat(tensors)


def _notes(stored: Stored, known: Format, conversion: Conversion, hints: Hints) -> Iterator[str]:
    if known.note and hints.format is None:
        yield known.note
    if stored.skipped:
        yield f"not read: {name_some(stored.skipped)}"
    if conversion.dropped:
        yield f"{len(conversion.dropped)} tensors left out: {conversion.why_dropped}"
    yield from _notes_of_sets(stored, hints)


def _notes_of_sets(stored: Stored, hints: Hints) -> Iterator[str]:
    if stored.others and hints.weights is None:
        options = " or ".join(f"`--weights {name}`" for name in stored.others)
        yield f"the weights are those of {stored.weights!r}; {options} reads others"


def _fill(config: DenoiserConfig, tensors: Mapping[str, Tensor]) -> Denoiser:
    """A model with these weights in float32; those that are so already are not copied."""
    with WithoutInit():
        model = build_model(config)
    own = model.state_dict()
    weights = {name: tensor.to(own[name].dtype) for name, tensor in tensors.items()}
    model.load_state_dict({**own, **weights}, assign=True)
    return model.eval()


class WithoutInit(TorchFunctionMode):
    """Skips the random start of weights that are replaced: they take neither time nor memory."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return named["tensor"] if "tensor" in named else args[0]
        return func(*args, **named)


def with_input_size(checkpoint: Checkpoint, input_size: tuple[int, int]) -> Checkpoint:
    """The same weights for a latent of another size; at its own size nothing changes.

    DiT's fixed positions are computed anew. Others are interpolated, which a note says.

    Raises:
        ConfigError: The patches or windows do not divide that size.
        CheckpointError: A weight depends on the size, such as a global layer's position bias.
    """
    if input_size == checkpoint.config.input_size:
        return checkpoint
    config = dataclasses.replace(checkpoint.config, input_size=input_size)
    weights = dict(checkpoint.model.state_dict())
    positions = weights.pop("pos_embed")
    expected = _empty_weights(config)
    del expected["pos_embed"]
    check_values(Path("the checkpoint"), weights, expected, ONE_SIZE)
    old, new, notes = checkpoint.config.grid, config.grid, checkpoint.notes
    if not are_sincos(positions, old):
        weights["pos_embed"] = resample_positions(positions, old, new)
        notes += (
            "its positions are not DiT's sines and cosines: they were interpolated (bicubic) from "
            f"{old[0]} x {old[1]} tokens to {new[0]} x {new[1]}, which no training has seen",
        )
    return dataclasses.replace(checkpoint, model=_fill(config, weights), notes=notes)


def with_amm(checkpoint: Checkpoint, asked: str) -> Checkpoint:
    """The same weights with another modulation of the attention.

    Raises:
        CheckpointError: The model's attention is not over the whole grid.
        ConfigError: The modulation is none, or not one for this model.
    """
    config = checkpoint.config
    if not isinstance(config, DitConfig | EdtConfig):
        raise CheckpointError(
            f"The attention of a {config.arch} cannot be modulated: it is not over the whole grid",
            "Leave `--amm` out",
        )
    config = dataclasses.replace(config, amm=choose_amm(asked, config))
    if config == checkpoint.config:
        return checkpoint
    return dataclasses.replace(checkpoint, model=_fill(config, checkpoint.model.state_dict()))


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
    with whole_file(path) as beside:
        save_file(tensors, beside, metadata)


def _decode(stored: Stored) -> dict[str, Any]:
    """The facts of a file of ours: in safetensors they are JSON."""
    facts = dict(stored.facts)
    if not isinstance(facts.get("format_version"), str):
        return facts
    version = facts["format_version"]
    if version != str(FORMAT_VERSION):
        raise CheckpointError(
            f"{stored.path} has format_version {version}, this pitstop reads {FORMAT_VERSION}",
            "Install the version of pitstop that wrote it",
        )
    try:
        return {**facts, **{name: json.loads(facts[name]) for name in ("config", "labels")}}
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{stored.path} has no readable config in its metadata ({error})",
            "Save it again with pitstop.models.save_checkpoint",
        ) from error


def _empty_weights(config: DenoiserConfig) -> dict[str, Tensor]:
    """The state dict that a config has, with shapes and dtypes and no numbers in it."""
    with torch.device("meta"):
        return build_model(config).state_dict()
