"""Read the router of Learning-to-Cache (Ma et al., 2024) as the steps of a run that are called.

Its steps go in pairs, counted down: an odd one computes every sub-layer, an even one those whose
score is above a threshold, and takes the others as they were a step before. A whole step is called
or not here, so an even step is where at least half of its sub-layers are computed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor

from .. import CheckpointError
from .stand_ins import refuse_stand_in
from .weight_file import unpickle

ROUTERS, PROBABILITIES = "routers", re.compile(r"(0|[1-9][0-9]{0,4})\.prob")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SHOWN = 40  # letters of a key, in a message
LEAST_SCORE = 0.1  # of a sub-layer that is computed; the authors' own
LEAST_SHARE = 0.5  # of a step's sub-layers, for it to be called
REMEDY = "Name a file of Learning-to-Cache, such as DDIM50_router.pt"


def read_router(path: Path) -> tuple[int, tuple[int, ...]]:
    """The steps of a run, and those that are called, counted from 0, the noisiest.

    Raises:
        CheckpointError: It is missing or broken, or no router.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no router at {path}", REMEDY)
    refuse_stand_in(path)
    routers = _routers(path, unpickle(path))
    steps = len(routers)
    called = [
        step
        for step in range(steps)
        if step == 0 or (left := steps - 1 - step) % 2 or _computed(routers[left]) >= LEAST_SHARE
    ]
    return steps, tuple(called)


def _routers(path: Path, content: object) -> list[Tensor]:
    """Of each step, counted down to 0, a number for each sub-layer."""
    routers = content.get(ROUTERS) if isinstance(content, Mapping) else None
    if not isinstance(routers, Mapping):
        raise _no_router(path, f"it holds no table {ROUTERS!r}")
    found: dict[int, Tensor] = {}
    for name, scores in routers.items():
        if not isinstance(name, str):
            raise _no_router(path, f"it has a key of type {type(name).__name__}, expected a name")
        said, match = " ".join(name[:SHOWN].split()), PROBABILITIES.fullmatch(name)
        if not match or not _is_list(scores):
            raise _no_router(path, f"{said} is no list of a step's scores, dense and of floats")
        if not torch.isfinite(scores).all():
            raise _no_router(path, f"{said} holds a number that is not finite")
        found[int(match[1])] = scores
    if sorted(found) != list(range(len(found))) or not found:
        raise _no_router(path, f"it has scores of {len(found)} steps, which are not 0, 1, 2, ...")
    if len({len(scores) for scores in found.values()}) > 1:
        raise _no_router(path, "its steps have different numbers of sub-layers")
    return [found[left] for left in range(len(found))]


def _is_list(scores: object) -> TypeGuard[Tensor]:
    """Whether these are numbers in memory, which every kind of tensor is not."""
    return (
        isinstance(scores, Tensor)
        and scores.layout is torch.strided
        and not scores.is_quantized
        and scores.device.type == "cpu"
        and scores.dtype in DTYPES
        and scores.ndim == 1
        and len(scores) > 0
    )


def _computed(scores: Tensor) -> float:
    """The share of sub-layers that are computed."""
    least = math.log(LEAST_SCORE / (1 - LEAST_SCORE))  # before the sigmoid
    return float((scores.float() > least).float().mean())


def _no_router(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is no router of Learning-to-Cache: {why}", REMEDY)
