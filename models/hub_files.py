"""Which files of a repository on a hub are needed, by their names alone."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from pathlib import PurePosixPath

from .. import CheckpointError
from .checkpoint_files import CONFIG, PIPELINE, STEM, TRANSFORMER, weights_among

CARD = "README.md"
VAE = "vae"
# Files that say how a model is sampled, beside it or in its pipeline.
SAID_BESIDE = (CARD, PIPELINE, "scheduler/scheduler_config.json", f"{VAE}/{CONFIG}")
CHECKPOINTS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
LISTED = 12  # names in a message


@dataclass(frozen=True)
class Needed:
    """What is fetched of a repository.

    Attributes:
        files: By their names in it; the last is the weights, or the list of their shards.
        place: What is opened then: a file, a folder, or empty for the whole repository.
    """

    files: tuple[str, ...]
    place: str = ""


def model_files(repository: str, names: Set[str], file: str, variant: str | None) -> Needed:
    """What a denoiser is read from: a pipeline's transformer, a model's folder, or one file.

    Args:
        repository: For the messages.
        names: Of all its files.
        file: The one that was asked for, or empty.
        variant: Of a folder's weights; None for those without one, or of fp16.

    Raises:
        CheckpointError: It has none, or several.
    """
    beside = tuple(name for name in SAID_BESIDE if name in names)
    if file:
        return _one_file(repository, names, file)
    for folder in (TRANSFORMER,) if PIPELINE in names else ("",):
        if (weights := _in_folder(names, folder, variant)) is not None:
            return Needed((*beside, *weights))
    checkpoints = sorted(name for name in names if _is_checkpoint(name))
    if len(checkpoints) == 1 and PIPELINE not in names and variant is None:
        return _one_file(repository, names, checkpoints[0])
    raise _no_model(repository, names, checkpoints, variant)


def vae_files(repository: str, names: Set[str]) -> Needed:
    """What a VAE is read from: a folder of diffusers, or the one in a pipeline.

    Raises:
        CheckpointError: It has none.
    """
    folder = VAE if PIPELINE in names else ""
    weights = _in_folder(names, folder, None)
    if weights is None:
        raise CheckpointError(
            f"{repository} has no VAE of diffusers: no {CONFIG} with {STEM}.safetensors or .bin "
            f"beside it{f' in {folder}' if folder else ''}",
            "Name a repository that diffusers' `save_pretrained` wrote, such as "
            "stabilityai/sd-vae-ft-ema",
        )
    return Needed((*(name for name in (CARD,) if name in names), *weights), folder)


def _in_folder(names: Set[str], folder: str, variant: str | None) -> tuple[str, str] | None:
    """Config and weights of a folder of diffusers, or None where one of them is not there."""
    start = f"{folder}/" if folder else ""
    within = {name.removeprefix(start) for name in names if name.startswith(start)}
    weights = weights_among(within, variant)
    if weights is None or CONFIG not in within:
        return None
    return f"{start}{CONFIG}", f"{start}{weights}"


def _one_file(repository: str, names: Set[str], file: str) -> Needed:
    if file not in names:
        raise CheckpointError(
            f"{repository} has no file {file}", f"Choose one of: {_listed(sorted(names))}"
        )
    if PIPELINE in names:
        raise CheckpointError(
            f"{repository} is a pipeline of diffusers, whose files belong together",
            f"Name {repository} alone; `--variant` chooses between weights",
        )
    config = str(PurePosixPath(file).with_name(CONFIG))  # read beside diffusers' weights
    beside = (name for name in (CARD, config) if name in names and name != file)
    return Needed((*beside, file), file)


def _is_checkpoint(name: str) -> bool:
    """Whether a name is one of a file that stands alone: diffusers' needs its config."""
    path = PurePosixPath(name)
    return path.suffix in CHECKPOINTS and not path.name.startswith(STEM)


def _no_model(
    repository: str, names: Set[str], checkpoints: list[str], variant: str | None
) -> CheckpointError:
    if checkpoints and PIPELINE not in names and variant is None:
        return CheckpointError(
            f"{repository} has several checkpoints",
            f"Name one as {repository}:FILE, of: {_listed(checkpoints)}",
        )
    of = "" if variant is None else f" in the variant {variant!r}"
    where = f"{TRANSFORMER}/" if PIPELINE in names else ""
    return CheckpointError(
        f"{repository} has no denoiser{of} that can be read: no {where}{CONFIG} with weights "
        f"beside it, but {_listed(sorted(names)) or 'no file at all'}",
        "Name a repository with a DiT of diffusers, or a file as REPOSITORY:FILE",
    )


def _listed(names: list[str]) -> str:
    more = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {more} more" if more > 0 else "")
