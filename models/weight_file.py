"""Read the files of a checkpoint: what is in them, not what it means.

A pickle is opened with ``weights_only``: a checkpoint is data, and unpickling one must not run
code. Tensors are mapped from their file, so an optimizer's state that nobody reads takes no memory.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .. import CheckpointError
from .format import NOT_WHOLE, Stored

PICKLES = {".pt", ".pth", ".bin", ".ckpt"}
# What training scripts pickle beside the weights, and what holds values and runs nothing.
HARMLESS: list[Any] = [
    argparse.Namespace,
    (pathlib.PurePosixPath, "pathlib.PosixPath"),
    (pathlib.PurePosixPath, "pathlib._local.PosixPath"),
]
WEIGHTS = ("ema", "model", "state_dict")  # the averaged ones first
ARGUMENTS = "args"  # of the training script
WRAPPERS = ("module.", "_orig_mod.")  # in front of all keys: DistributedDataParallel, compile
CONFIG = "config.json"
PIPELINE = "model_index.json"
FOLDER_WEIGHTS = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.fp16.bin",
)
# Beside shards; diffusers puts the variant behind the word.
INDICES = ("index.json", "index.fp16.json")


def read_stored(path: Path) -> Stored:
    """Read a file or a folder.

    Raises:
        CheckpointError: It is missing, broken, or pickles what could run code.
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise CheckpointError(
            f"There is no checkpoint at {path}", "Name a .safetensors or .pt file, or a preset"
        )
    return _read_pickle(path) if path.suffix in PICKLES else _read_safetensors(path)


def is_stored(path: Path) -> bool:
    """Whether there is a file, or a folder of diffusers."""
    return path.is_file() or any((path / name).is_file() for name in (CONFIG, PIPELINE))


def _read_safetensors(path: Path) -> Stored:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error})",
            "Copy or download it again; a PyTorch file must end in .pt",
        ) from error
    return Stored(path, _unwrapped(tensors), metadata)


def _read_pickle(path: Path) -> Stored:
    content = _unpickle(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, not weights by name", _convert_it(path)
        )
    maps = (name for name in WEIGHTS if isinstance(content.get(name), Mapping))
    held = next((name for name in maps if content[name]), None)
    weights = content if held is None else content[held]
    tensors = {}
    if isinstance(weights, Mapping):
        tensors = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    for name, tensor in tensors.items():
        _check_stored(path, name, tensor)
    if not tensors or not all(isinstance(name, str) for name in weights):
        raise CheckpointError(
            f"{path} has no weights, by themselves or under 'ema' or 'model' (found: "
            f"{', '.join(map(str, content)) or 'nothing'})",
            "Save the state dict itself, or a dict with it under 'ema' or 'model'",
        )
    beside = {name: value for name, value in content.items() if name != held}
    facts = {name: value for name, value in beside.items() if not isinstance(value, Tensor)}
    skipped = tuple(str(name) for name in facts if name != ARGUMENTS)
    arguments = facts.pop(ARGUMENTS, {})
    if isinstance(arguments, argparse.Namespace):
        arguments = vars(arguments)
    if isinstance(arguments, Mapping):
        facts = {**arguments, **facts}
    return Stored(path, _unwrapped(tensors), facts, skipped)


def _check_stored(path: Path, name: object, tensor: Tensor) -> None:
    """Refuse a tensor whose numbers are not all in the file: it could be of any size."""
    if tensor.layout != torch.strided:
        return
    size = tensor.numel() * tensor.element_size()
    if tensor.is_meta or size > tensor.untyped_storage().nbytes():
        raise CheckpointError(
            f"{name} in {path} has shape {list(tensor.shape)} without so many numbers",
            "Save the weights as they were trained, each `contiguous()`",
        )


def _unpickle(path: Path) -> object:
    mapped = zipfile.is_zipfile(path)  # only these, the format since 2020, can be
    try:
        with torch.serialization.safe_globals(HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong with a file, one error says
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a broken file makes torch.load raise almost anything
        raise _why_not_opened(path, str(error), mapped) from error


def _why_not_opened(path: Path, message: str, zipped: bool) -> CheckpointError:
    refused = re.search(r"GLOBAL (\S*\w)\s", message)
    if refused and not _ends_in(path, refused[1].rpartition(".")[2]):
        return CheckpointError(
            f"{path} pickles {refused[1]}, not tensors alone, and could run code when opened",
            _convert_it(path),
        )
    if "TorchScript" in message:
        return CheckpointError(
            f"{path} is a TorchScript archive, a program and not weights alone",
            f'Save them: `torch.save(torch.jit.load("{path.name}").state_dict(), "weights.pt")`',
        )
    pickled = zipped or _begins_with(path, pickle.PROTO)
    if pickled and "Unsupported operand" in message:
        return CheckpointError(
            f"{path} is pickled in another way than torch.save does by default, or damaged",
            _convert_it(path),
        )
    return CheckpointError(f"{path} is not a whole PyTorch file", "Copy or download it again")


def _begins_with(path: Path, start: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(start)) == start


def _ends_in(path: Path, name: str) -> bool:
    """Whether a file is cut off in the name of a class: torch takes its last byte for a newline."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(name) - 1))
        return file.read()[:-1] == name.encode()


def _convert_it(path: Path) -> str:
    return (
        "Where you trust it, keep its weights alone, by name: "
        f'`content = torch.load("{path.name}", weights_only=False)`, then '
        '`torch.save(content["ema"], "weights.pt")` or whatever they are called in it'
    )


def _read_folder(path: Path) -> Stored:
    """A folder of diffusers: a model's, or a whole pipeline's with the model in ``transformer``."""
    folder = path / "transformer" if (path / PIPELINE).is_file() else path
    if not (folder / CONFIG).is_file():
        raise CheckpointError(
            f"There is no checkpoint at {path}",
            "Name a .safetensors or .pt file, a preset, or a folder of diffusers with a "
            "transformer and its config.json",
        )
    config = _read_json(folder / CONFIG)
    tensors: dict[str, Tensor] = {}
    for name in _weight_files(folder):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} lacks its weights {name}", NOT_WHOLE)
        tensors.update(read_stored(folder / name).tensors)
    return Stored(path, tensors, config)


def _weight_files(folder: Path) -> list[str]:
    for name in FOLDER_WEIGHTS:
        for index in (folder / f"{name}.{ending}" for ending in INDICES):
            if index.is_file():
                return _shards(index)
        if (folder / name).is_file():
            return [name]
    return [FOLDER_WEIGHTS[0]]


def _shards(index: Path) -> list[str]:
    shards = _read_json(index).get("weight_map")
    files = {str(file) for file in shards.values()} if isinstance(shards, Mapping) else {""}
    if not all(file and file == Path(file).name for file in files):
        raise CheckpointError(f"{index} does not say where the weights are", NOT_WHOLE)
    return sorted(files)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})", NOT_WHOLE) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is no JSON object", NOT_WHOLE)
    return content


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without what a wrapper puts in front of every key."""
    for prefix in WRAPPERS:
        if tensors and all(name.startswith(prefix) for name in tensors):
            return _unwrapped({name.removeprefix(prefix): t for name, t in tensors.items()})
    return tensors
