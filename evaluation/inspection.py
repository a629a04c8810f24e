"""What a checkpoint is, in the words that a bundle's manifest uses of its model."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from .. import CheckpointError
from ..export.found import find_model
from ..export.pipeline_folder import with_pipeline
from ..export.trace import load_source, manifest_for
from ..models.checkpoint import Checkpoint
from ..models.format import Hints
from ..runtime.bundle.manifest import Manifest, ModelSpec
from ..runtime.bundle.source import SourceSpec
from ..runtime.stage import OnStage, unheard


@dataclass(frozen=True)
class CheckpointReport:
    """A checkpoint or preset.

    Attributes:
        model: Its network; the FLOPs are those of one row.
        latent_shape: Channel, row, column.
        latent_space: ``pixel`` or ``vae``.
        labels: The names of its classes, or empty.
        predicts: What its model predicts.
        schedule: The noise that it knows, in users' words.
        tensors: How many tensors its file holds.
        weight_bytes: Their size in fp32.
        notes: What to know of how its file was read.
        export_command: What makes a bundle of it.
        source: The repository that it was fetched from, or None.
    """

    model: ModelSpec
    latent_shape: tuple[int, int, int]
    latent_space: str
    labels: tuple[str, ...]
    predicts: str
    schedule: str
    tensors: int
    weight_bytes: int
    notes: tuple[str, ...]
    export_command: str
    source: SourceSpec | None = None


def inspect_checkpoint(
    source: str,
    hints: Hints | None = None,
    revision: str | None = None,
    on_stage: OnStage = unheard,
) -> CheckpointReport:
    """Read a checkpoint or build a preset, and say what it is.

    Args:
        source: A checkpoint's path, a preset's name, or that of a repository on a hub.
        hints: What a file of other people's cannot tell by itself.
        revision: Of the repository; None for its main branch.
        on_stage: Told of what is fetched.

    Raises:
        CheckpointError: No such file or preset, or one that cannot be read.
    """
    hints = hints or Hints()
    found = find_model(source, revision, hints, on_stage)
    checkpoint: Checkpoint = load_source(found.path, hints=hints)
    weights = checkpoint.model.state_dict().values()
    manifest, notes = _in_its_pipeline(found.path, manifest_for(checkpoint, source, batch=1))
    return CheckpointReport(
        model=manifest.model,
        latent_shape=manifest.latent_shape,
        latent_space=manifest.latent_space,
        labels=manifest.label.names,
        predicts=manifest.prediction_type,
        schedule=", ".join(filter(None, (manifest.schedule.called, manifest.scheduler.called))),
        tensors=len(weights),
        weight_bytes=sum(tensor.numel() * 4 for tensor in weights),
        notes=(*checkpoint.notes, *notes),
        export_command=export_command(source, hints, found.source),
        source=found.source,
    )


def _in_its_pipeline(source: str, alone: Manifest) -> tuple[Manifest, tuple[str, ...]]:
    """What the pipeline around it says; one that an export would refuse is a note here."""
    try:
        return with_pipeline(source, alone)
    except CheckpointError as error:
        return alone, (f"export would refuse it: {error.problem}",)


def export_command(source: str, hints: Hints, fetched: SourceSpec | None = None) -> str:
    """The command that exports a checkpoint, with all that was said of it, at the same commit."""
    options = {
        "--revision": None if fetched is None else fetched.revision,
        "--format": hints.format,
        "--heads": hints.num_heads,
        "--classes": hints.num_classes,
        "--amm": hints.amm,
        "--weights": hints.weights,
        "--variant": hints.variant,
    }
    told = [
        f"{name} {shlex.quote(str(value))}" for name, value in options.items() if value is not None
    ]
    return " ".join(["pitstop export", shlex.quote(source), *told, "--out BUNDLE"])
