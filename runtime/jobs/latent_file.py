"""Latents as ``.npy``, each with a JSON file beside it: its parameters, and that it is whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..image import written_whole
from ..sampling.sampler import Latent

SHA256 = "sha256"  # of the latents' file


def told_beside(path: Path) -> Path:
    """Where the parameters of latents are."""
    return path.with_name(f"{path.stem}.json")


def save_latent(latent: Latent, path: Path, parameters: Mapping[str, Any]) -> None:
    """Write one latent and its parameters, which come first: what lies alone is not pitstop's.

    Raises:
        OptionError: It cannot be written.
    """
    with written_whole(path) as beside:
        with beside.open("wb") as file:
            np.save(file, latent)
        told = {**parameters, SHA256: _sha256(beside)}
        with written_whole(told_beside(path)) as text:
            text.write_text(json.dumps(told), encoding="utf-8")


def read_latent_parameters(path: Path, *, whole: bool = True) -> dict[str, Any]:
    """The parameters of latents that `save_latent` wrote.

    Args:
        path: Of the latents.
        whole: Read the latents too.

    Raises:
        OSError: There are none, or they have changed.
        ValueError: What lies beside them is no table.
    """
    told = told_beside(path)
    if not told.is_file():
        raise OSError(f"there is no file {told}")
    parameters = dict(json.loads(told.read_text(encoding="utf-8")))
    digest = parameters.pop(SHA256, None)
    if whole and digest != _sha256(path):
        raise OSError(f"the latents of {path} have changed")
    return parameters


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
