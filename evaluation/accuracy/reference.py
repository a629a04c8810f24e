"""PyTorch live: goldens drawn from a checkpoint for as many images and steps as are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ... import CheckpointError
from ...export.found import find_model
from ...export.goldens import draw_goldens
from ...export.trace import TorchSession, is_hub_name, load_source, vae_factor
from ...models.config import config_to_dict
from ...models.denoiser import Denoiser
from ...models.format import Hints
from ...runtime.bundle.goldens import Goldens
from ...runtime.bundle.manifest import Manifest
from ...runtime.pipeline import OnStep, Pipeline
from ...runtime.sampling.settings import Settings
from .same_model import different_field

AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}


def live_goldens(
    source: str,
    manifest: Manifest,
    settings: Settings,
    images: int,
    *,
    on_step: OnStep | None = None,
) -> Goldens:
    """Sample with the checkpoint that a bundle was exported from.

    Args:
        source: The checkpoint's path, the preset's name, or that of a repository on a hub.
        manifest: The bundle's.
        settings: How the images are sampled.
        images: How many.
        on_step: Told of every step.

    Raises:
        CheckpointError: The checkpoint cannot be read, or is of another model than the bundle.
    """
    return draw_goldens(open_reference(source, manifest), settings, images, on_step=on_step)


def open_reference(source: str, manifest: Manifest) -> Pipeline:
    """PyTorch in fp32 as a pipeline with the bundle's own batch and schedule.

    Raises:
        CheckpointError: The checkpoint cannot be read, or is of another model than the bundle.
    """
    return Pipeline(manifest, TorchSession(load_model(source, manifest)), "fp32")


def open_autocast(model: Denoiser, manifest: Manifest, precision: str) -> Pipeline:
    """PyTorch as it runs in ``fp16`` or ``bf16`` by itself: under autocast, without an export."""
    return Pipeline(manifest, TorchSession(Autocast(model, AUTOCAST[precision])), precision)


class Autocast(nn.Module):
    """A denoiser whose linears and convolutions run in a lower precision."""

    def __init__(self, model: Denoiser, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype

    def forward(self, *inputs: Tensor) -> Tensor:
        with torch.autocast("cpu", self.dtype):
            prediction: Tensor = self.model(*inputs)
        return prediction.float()


def load_model(source: str, manifest: Manifest) -> Denoiser:
    """The network that a bundle was exported from, in eval mode and at the bundle's size.

    Raises:
        CheckpointError: The checkpoint cannot be read, or is of another model than the bundle.
    """
    bundled = manifest.model.config
    hints = Hints(
        manifest.model.format or None,
        bundled.get("num_heads"),
        bundled.get("num_classes"),
        _modulated(bundled),
        manifest.model.weights or None,
        manifest.model.variant or None,
    )
    path = _path_of(source, manifest, hints)
    checkpoint = load_source(path, hints=hints)
    _, *sides = manifest.latent_shape
    if checkpoint.config.input_size != tuple(sides):
        rows, columns = (side * vae_factor(checkpoint) for side in sides)
        checkpoint = load_source(path, (rows, columns), hints=hints)
    config = config_to_dict(checkpoint.config)
    name = different_field(config, bundled)
    if name is not None:
        raise CheckpointError(
            f"{source} has {name} {config.get(name)}, but the bundle was exported from a model "
            f"with {name} {bundled[name]}",
            "Name the checkpoint that the bundle was exported from",
        )
    return checkpoint.model.eval()


def _path_of(source: str, manifest: Manifest, hints: Hints) -> str:
    """Where a checkpoint lies; a bundle's own repository is taken at the bundle's own commit."""
    if not is_hub_name(source):
        return source
    commits = {one.repository: one.revision for one in manifest.sources if one.role == "model"}
    return find_model(source, commits.get(source.partition(":")[0]), hints).path


def _modulated(config: Mapping[str, Any]) -> str | None:
    """The blocks whose attention a bundle modulates, as they were asked for at its export."""
    if "amm" not in config:
        return None
    return ",".join(map(str, config["amm"]["blocks"])) or "off"
