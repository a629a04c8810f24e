"""What a diffusers pipeline says beside its transformer: scheduler, latents' scale, labels."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from .. import CheckpointError
from ..runtime.bundle.fields import a_number
from ..runtime.bundle.manifest import LATENT_SCALES, Manifest
from ..runtime.sampling.schedule.betas import Betas
from .by_hand import ByHand
from .scheduler_config import LEARNED, VELOCITY, read_config, refused

INDEX, CONFIG, TRANSFORMER = "model_index.json", "config.json", "transformer"
SCHEDULER = Path("scheduler", "scheduler_config.json")
OF_PIPELINES = "diffusers"  # the format of checkpoints whose schedule is beside them
SAID_NOTHING = ByHand()


def with_pipeline(
    source: str, manifest: Manifest, by_hand: ByHand = SAID_NOTHING
) -> tuple[Manifest, tuple[str, ...]]:
    """The manifest with what the pipeline around a checkpoint says, and notes of what it lacks.

    Args:
        source: A checkpoint's path; other than a folder of a pipeline, or the transformer in it,
            it says nothing.
        manifest: Of the checkpoint.
        by_hand: What the user says, in the place of what the scheduler does. Prediction and betas
            together leave its file unread.

    Raises:
        CheckpointError: A file is damaged, or says what our samplers do not do.
        OptionError: What is said by hand does not go with the model.
    """
    folder = _pipeline_of(Path(source).resolve())
    if folder is not None:
        manifest = _with_neighbours(manifest, folder)
    if folder is None or not (folder / SCHEDULER).is_file():
        notes = () if by_hand else _notes_without(Path(source), manifest)
        return by_hand.onto(manifest), notes
    if by_hand.says_all:
        return by_hand.onto(manifest), (
            f"{folder / SCHEDULER} was not read: prediction and betas are as they were said, and "
            "all else of a run is each sampler's own",
        )
    return by_hand.onto(_with_scheduler(manifest, folder / SCHEDULER)), ()


def _with_neighbours(manifest: Manifest, folder: Path) -> Manifest:
    """The manifest with what a pipeline says of its classes and its latents."""
    if (folder / INDEX).is_file():
        manifest = _with_labels(manifest, _read(folder / INDEX).get("id2label"))
    if (folder / "vae" / CONFIG).is_file():
        manifest = _with_latents(manifest, folder / "vae" / CONFIG)
    return manifest


def _pipeline_of(path: Path) -> Path | None:
    """The pipeline that a path is, or is the transformer of, or a file of the transformer of."""
    around = [one.parent for one in (path, path.parent) if one.name == TRANSFORMER]
    for folder in (path, *around):
        if any((folder / name).is_file() for name in (INDEX, SCHEDULER)):
            return folder
    return None


def _notes_without(source: Path, manifest: Manifest) -> tuple[str, ...]:
    betas = manifest.schedule
    told_by_format = not source.is_dir() and manifest.model.format != OF_PIPELINES
    if told_by_format or not isinstance(betas, Betas):
        return ()
    return (
        f"{source} has no scheduler: the model is taken to predict the noise, and to know "
        f"{betas.train_steps} timesteps whose betas rise linearly from {betas.beta_start:g} to "
        f"{betas.beta_end:g}; `--prediction` and `--betas` say otherwise",
    )


def _with_scheduler(manifest: Manifest, path: Path) -> Manifest:
    if manifest.prediction_type == VELOCITY:
        raise CheckpointError(
            f"{path} is the scheduler of a model that is a flow by its own format, which says how "
            "its times run",
            f"Copy {path.parent.parent / TRANSFORMER} elsewhere and name that; `--shift` is for it",
        )
    honoured = read_config(path, _read(path), manifest)
    _check_variance(path, honoured.variance_type, manifest)
    return dataclasses.replace(
        manifest,
        schedule=honoured.schedule,
        scheduler=honoured.scheduler,
        prediction_type=honoured.prediction_type,
    )


def _check_variance(path: Path, said: str | None, manifest: Manifest) -> None:
    """Refuse a variance that is learned where the model learns none, and the other way round."""
    if said is not None and (said == LEARNED) is not manifest.learn_sigma:
        learns = "learns" if manifest.learn_sigma else "does not learn"
        raise refused(path, f"has variance_type {said}, and the model {learns} its variance")


def _with_latents(manifest: Manifest, path: Path) -> Manifest:
    """The scale and shift that the pipeline's VAE goes with, though it is not exported."""
    content = _read(path)
    if manifest.latent_space == "pixel":
        if content.get("latent_channels") != manifest.latent_shape[0]:
            return manifest
        # Latents of one or three channels, which the model alone does not tell from an image.
        manifest = dataclasses.replace(
            manifest, latent_space="vae", latent_scale=LATENT_SCALES["vae"]
        )
    scale = content.get("scaling_factor", manifest.latent_scale)
    shift = content.get("shift_factor") or 0.0
    try:
        scale, shift = a_number({"": scale}, "", 1.0), a_number({"": shift}, "", 0.0)
    except ValueError:
        scale = 0.0
    if not scale > 0:
        raise CheckpointError(
            f"{path} has no scaling_factor above 0, or a shift_factor that is no number",
            "Name the model's own VAE with `--vae`, and take that file away",
        )
    return dataclasses.replace(manifest, latent_scale=scale, latent_shift=shift)


def _with_labels(manifest: Manifest, names: object) -> Manifest:
    """The classes' names, where the pipeline has one for each."""
    label = manifest.label
    if not isinstance(names, dict) or label.names:
        return manifest
    listed = [names.get(str(index)) for index in range(label.classes)]
    if not all(isinstance(name, str) and name for name in listed):
        return manifest
    return dataclasses.replace(
        manifest, conditions=(dataclasses.replace(label, names=tuple(map(str, listed))),)
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, f"cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise _damaged(path, "holds no JSON object")
    return content


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} {why}", "Copy or download it again")
