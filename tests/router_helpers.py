"""A router file as Learning-to-Cache writes one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch


def write_router(path: Path, scores: Sequence[Sequence[float]]) -> Path:
    """``scores`` before the sigmoid, of each step counted down to 0."""
    routers = {f"{left}.prob": torch.tensor(each) for left, each in enumerate(scores)}
    args = argparse.Namespace(model="DiT-XL/2", num_sampling_steps=len(scores))
    torch.save({"routers": routers, "opt": {}, "args": args}, path)
    return path
