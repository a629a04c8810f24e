"""Read what a checkpoint's path names: a file, or a folder of diffusers, in shards and variants.

diffusers puts a variant into the names of weights, ``diffusion_pytorch_model.bf16.safetensors``,
and of the list of shards, ``diffusion_pytorch_model.safetensors.index.bf16.json``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import CheckpointError
from .format import NOT_WHOLE, Hints, Stored
from .stand_ins import refuse_stand_in
from .weight_file import read_file

CONFIG = "config.json"
PIPELINE = "model_index.json"
TRANSFORMER = "transformer"
STEM = "diffusion_pytorch_model"
ENDINGS = ("safetensors", "bin")
VARIANTS = ("", "fp16")  # that are taken unasked: the weights themselves, in full or half precision
TAKE_ONE = "Take one with `--variant {variant}`"
RENAME_ONE = f"Take {{variant}} out of the name of its file to have {STEM}.safetensors"
VARIANT = re.compile(  # of the weights in one file, or of their shards' list
    rf"{STEM}\.((?!.*-of-)[\w-]+)\.(?:{'|'.join(ENDINGS)})"
    rf"|{STEM}\.(?:{'|'.join(ENDINGS)})\.index\.([\w-]+)\.json"
)


def read_stored(path: Path, hints: Hints) -> Stored:
    """Read a file or a folder.

    Args:
        path: Of either.
        hints: Which of a file's sets of weights, or of a folder's variants, is to be read.

    Raises:
        CheckpointError: It is missing, broken, pickles what could run code, or has nothing of the
            kind that is asked for.
    """
    if path.is_dir():
        if hints.weights:
            raise CheckpointError(
                f"{path} is a folder, whose files hold one set of weights each",
                "Leave `--weights` out; `--variant` chooses between files",
            )
        return _read_folder(path, hints.variant)
    if hints.variant:
        raise CheckpointError(
            f"{path} is no folder, which alone has variants",
            "Leave `--variant` out, or name the folder of diffusers",
        )
    stored = read_file(path, hints.weights)
    config = path.parent / CONFIG
    if not path.name.startswith(STEM) or not config.is_file():
        return stored
    return Stored(path, stored.tensors, read_json(config), stored.skipped)


def is_stored(path: Path) -> bool:
    """Whether there is a file, or a folder of diffusers."""
    return path.is_file() or any((path / name).is_file() for name in (CONFIG, PIPELINE))


def _read_folder(path: Path, variant: str | None) -> Stored:
    """A folder of diffusers: a model's, or a whole pipeline's with the model in ``transformer``."""
    folder = path / TRANSFORMER if (path / PIPELINE).is_file() else path
    if not (folder / CONFIG).is_file():
        raise CheckpointError(
            f"There is no checkpoint at {path}",
            "Name a .safetensors or .pt file, a preset, or a folder of diffusers with a "
            "transformer and its config.json",
        )
    config = read_json(folder / CONFIG)
    return Stored(path, read_folder_weights(folder, variant, TAKE_ONE), config)


def read_folder_weights(
    folder: Path, variant: str | None = None, remedy: str = RENAME_ONE
) -> dict[str, Tensor]:
    """The tensors of a folder, of all shards.

    Args:
        folder: Of a model, or a VAE.
        variant: As it stands in the files' names; None for those without one, or of fp16.
        remedy: Where there are other variants alone, the first of them ``{variant}``.

    Raises:
        CheckpointError: There are no such weights; those that there are are named.
    """
    tensors: dict[str, Tensor] = {}
    for name in _weight_files(folder, variant, remedy):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} lacks its weights {name}", NOT_WHOLE)
        tensors.update(read_file(folder / name).tensors)
    return tensors


def weights_among(names: Container[str], variant: str | None) -> str | None:
    """The file that is read of a folder with these names: the weights, or their shards' list."""
    for ending in ENDINGS:
        for word in VARIANTS if variant is None else (variant,):
            part = f".{word}" if word else ""
            for name in (f"{STEM}.{ending}.index{part}.json", f"{STEM}{part}.{ending}"):
                if name in names:
                    return name
    return None


def shards_of(index: Path) -> list[str]:
    """The names of the files that a list of shards has.

    Raises:
        CheckpointError: It has none, or one in another folder.
    """
    shards = read_json(index).get("weight_map")
    files = {str(file) for file in shards.values()} if isinstance(shards, Mapping) else {""}
    if not all(_is_name(file) for file in files):
        raise CheckpointError(f"{index} does not say where the weights are", NOT_WHOLE)
    return sorted(files)


def _is_name(file: str) -> bool:
    return file == Path(file).name and file not in {"", ".."} and "\0" not in file


def _weight_files(folder: Path, variant: str | None, remedy: str) -> list[str]:
    found = weights_among({path.name for path in folder.iterdir() if path.is_file()}, variant)
    if found is None:
        raise _no_weights(folder, variant, remedy)
    return shards_of(folder / found) if found.endswith(".json") else [found]


def _no_weights(folder: Path, variant: str | None, remedy: str) -> CheckpointError:
    names = sorted(path.name for path in folder.iterdir())
    matches = filter(None, map(VARIANT.fullmatch, names))
    there = sorted({match[1] or match[2] for match in matches})
    listed = ", ".join(there) or "none"
    if variant is not None:
        return CheckpointError(
            f"{folder} has no variant {variant!r} (found: {listed})",
            f"Say `--variant {there[0]}`"
            if there
            else "Name a folder that has it, or leave `--variant` out",
        )
    if there:
        return CheckpointError(
            f"{folder} has its weights in other variants alone: {listed}",
            remedy.format(variant=there[0]),
        )
    return CheckpointError(f"{folder} lacks its weights {STEM}.safetensors", NOT_WHOLE)


def read_json(path: Path) -> dict[str, Any]:
    refuse_stand_in(path)
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})", NOT_WHOLE) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is no JSON object", NOT_WHOLE)
    return content
