"""Where a checkpoint and a VAE lie: here, or fetched from a hub, which the manifest then says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .. import OptionError
from ..runtime.bundle.source import SourceSpec
from ..runtime.stage import OnStage, unheard
from .trace import Downloaded, Hints, fetch_model, fetch_vae, is_hub_name


@dataclass(frozen=True)
class Found:
    """What is read in the place of a name.

    Attributes:
        path: Of a file or folder; or a preset's name.
        name: What the model is called.
        source: The repository that it was fetched from, or None.
    """

    path: str
    name: str
    source: SourceSpec | None = None


def find_model(
    source: str,
    revision: str | None = None,
    hints: Hints | None = None,
    on_stage: OnStage = unheard,
) -> Found:
    """A checkpoint or preset that is here, or else in a repository on a hub.

    Args:
        source: A path, a preset's name, or ``OWNER/NAME`` with or without ``:FILE``.
        revision: Of the repository: a branch, tag or commit.
        hints: What is said of it; its variant chooses what is fetched.
        on_stage: Told of what is fetched.

    Raises:
        CheckpointError: The repository is not to be had, or has no denoiser that could be read.
        OptionError: A revision is said of what is here.
    """
    if is_hub_name(source):
        variant = None if hints is None else hints.variant
        return _fetched(fetch_model(source, revision, variant, on_stage), "model")
    if revision is not None:
        raise OptionError(
            f"{source} is no repository on a hub, which alone has revisions",
            "Leave `--revision` out",
        )
    return Found(source, Path(source).stem)


def find_vae(source: Path, on_stage: OnStage = unheard) -> Found:
    """A folder with a VAE that is here, or else in a repository on a hub.

    Raises:
        CheckpointError: The repository is not to be had, or has no VAE.
    """
    if is_hub_name(str(source)):
        return _fetched(fetch_vae(str(source), on_stage), "vae")
    return Found(str(source), source.name)


def _fetched(found: Downloaded, role: str) -> Found:
    source = SourceSpec(role, found.repository, found.revision, found.file, found.licence)
    return Found(str(found.path), found.name, source)
