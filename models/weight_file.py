"""Read the file of a checkpoint: what is in it, not what it means.

A pickle is opened with ``weights_only``: a checkpoint is data, and unpickling one must not run
code. Tensors are mapped from their file, so an optimizer's state that nobody reads takes no memory.
"""

from __future__ import annotations

import argparse
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
from .format import Stored
from .stand_ins import refuse_stand_in
from .weight_sets import choose_set

PICKLES = {".pt", ".pth", ".bin", ".ckpt"}
# What training scripts pickle beside the weights, and what holds values and runs nothing.
HARMLESS: list[Any] = [
    argparse.Namespace,
    (pathlib.PurePosixPath, "pathlib.PosixPath"),
    (pathlib.PurePosixPath, "pathlib._local.PosixPath"),
]
SAFETENSORS_HEADER = 8  # bytes before it, its length
ARGUMENTS = "args"  # of the training script


def read_file(path: Path, weights: str | None = None) -> Stored:
    """Read one file, and of its sets of weights the one that is asked for.

    Args:
        path: A safetensors file, or PyTorch's.
        weights: ``ema``, ``model`` or another name in the file; None for the averaged weights
            where there are some.

    Raises:
        CheckpointError: It is missing, broken, pickles what could run code, or has no such set.
    """
    if not path.is_file():
        raise CheckpointError(
            f"There is no checkpoint at {path}", "Name a .safetensors or .pt file, or a preset"
        )
    refuse_stand_in(path)
    if path.suffix in PICKLES:
        return _read_pickle(path, weights)
    return _read_safetensors(path, weights)


def _read_safetensors(path: Path, weights: str | None) -> Stored:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        if _is_zip(path):
            raise CheckpointError(
                f"{path} is no safetensors file but PyTorch's", "Rename it to end in .pt"
            ) from error
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error})",
            "Copy or download it again; a PyTorch file must end in .pt",
        ) from error
    found = choose_set(str(path), tensors, weights)
    return Stored(path, found.tensors, metadata, found.skipped, found.name, found.others)


def _read_pickle(path: Path, weights: str | None) -> Stored:
    content = unpickle(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, not weights by name", _convert_it(path)
        )
    found = choose_set(str(path), content, weights)
    for name, tensor in found.tensors.items():
        _check_stored(path, name, tensor)
    if not found.tensors or (found.under is None and not all(isinstance(n, str) for n in content)):
        raise CheckpointError(
            f"{path} has no weights, by themselves or under 'ema' or 'model' (found: "
            f"{', '.join(map(str, content)) or 'nothing'})",
            "Save the state dict itself, or a dict with it under 'ema' or 'model'",
        )
    beside = {name: value for name, value in content.items() if name != found.under}
    facts = {name: value for name, value in beside.items() if not isinstance(value, Tensor)}
    skipped = tuple(str(name) for name in facts if name != ARGUMENTS)
    arguments = facts.pop(ARGUMENTS, {})
    if isinstance(arguments, argparse.Namespace):
        arguments = vars(arguments)
    if isinstance(arguments, Mapping):
        facts = {**arguments, **facts}
    skipped = (*skipped, *found.skipped)
    return Stored(path, found.tensors, facts, skipped, found.name, found.others)


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


def _is_zip(path: Path) -> bool:
    """Whether a file ends as a zip archive does, whole or not."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # what some Pythons say of a damaged end
        return True


def unpickle(path: Path) -> object:
    """What torch.save wrote: values and tensors, and nothing that could run code.

    Raises:
        CheckpointError: It is broken, or holds something else.
    """
    mapped = _is_zip(path)  # only these, the format since 2020, can be
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
    if _begins_with(path, b'{"', at=SAFETENSORS_HEADER):
        return CheckpointError(
            f"{path} is no PyTorch file but a safetensors one", "Rename it to end in .safetensors"
        )
    pickled = zipped or _begins_with(path, pickle.PROTO)
    if pickled and "Unsupported operand" in message:
        return CheckpointError(
            f"{path} is pickled in another way than torch.save does by default, or damaged",
            _convert_it(path),
        )
    return CheckpointError(f"{path} is not a whole PyTorch file", "Copy or download it again")


def _begins_with(path: Path, start: bytes, at: int = 0) -> bool:
    with path.open("rb") as file:
        file.seek(at)
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
