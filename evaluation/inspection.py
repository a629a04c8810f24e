"""What a checkpoint is, in the words that a bundle's manifest uses of its model."""

from __future__ import annotations

from dataclasses import dataclass

from ..export.trace import describe, latent_space, load_source
from ..models.checkpoint import Checkpoint
from ..runtime.manifest import ModelSpec


@dataclass(frozen=True)
class CheckpointReport:
    """A checkpoint or preset.

    Attributes:
        model: Its network; the FLOPs are those of one row.
        latent_shape: Channel, row, column.
        latent_space: ``pixel`` or ``vae``.
        labels: The names of its classes, or empty.
        tensors: How many tensors its file holds.
        weight_bytes: Their size in fp32.
    """

    model: ModelSpec
    latent_shape: tuple[int, int, int]
    latent_space: str
    labels: tuple[str, ...]
    tensors: int
    weight_bytes: int


def inspect_checkpoint(source: str) -> CheckpointReport:
    """Read a checkpoint or build a preset, and say what it is.

    Raises:
        CheckpointError: No such file or preset, or one that cannot be read.
    """
    checkpoint: Checkpoint = load_source(source)
    weights = checkpoint.model.state_dict().values()
    return CheckpointReport(
        model=describe(checkpoint, source, batch=1),
        latent_shape=(checkpoint.config.in_channels, *checkpoint.config.input_size),
        latent_space=latent_space(checkpoint),
        labels=checkpoint.labels,
        tensors=len(weights),
        weight_bytes=sum(tensor.numel() * 4 for tensor in weights),
    )
