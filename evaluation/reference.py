"""PyTorch live: goldens drawn from a checkpoint for as many images and steps as are asked for."""

from __future__ import annotations

from ..export.goldens import draw_goldens
from ..export.trace import TorchSession, load_source, vae_factor
from ..models.config import config_to_dict
from ..runtime.errors import CheckpointError
from ..runtime.goldens import Goldens
from ..runtime.manifest import Manifest
from ..runtime.pipeline import OnStep, Pipeline, Settings


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
        source: The checkpoint's path or the preset's name.
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
    checkpoint = load_source(source)
    side = manifest.latent_shape[1]
    if checkpoint.config.input_size != manifest.latent_shape[1:]:
        checkpoint = load_source(source, side * vae_factor(checkpoint))
    config = config_to_dict(checkpoint.config)
    for name, bundled in manifest.model.config.items():
        if _plain(config.get(name)) != _plain(bundled):
            raise CheckpointError(
                f"{source} has {name} {config.get(name)}, but the bundle was exported from a model "
                f"with {name} {bundled}",
                "Name the checkpoint that the bundle was exported from",
            )
    return Pipeline(manifest, TorchSession(checkpoint.model), "fp32")


def _plain(value: object) -> object:
    """``value`` as JSON would give it back: lists for tuples."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value
