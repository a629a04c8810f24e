"""Checkpoints by their names on a hub: the files that are needed, through huggingface_hub.

Cache, token, endpoint and offline mode are its own: HF_HOME, HF_TOKEN, HF_ENDPOINT and
HF_HUB_OFFLINE.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .. import CheckpointError
from .checkpoint_files import PIPELINE, read_json, shards_of
from .hub_errors import no_hub, not_cached, told
from .hub_files import CARD, CHECKPOINTS, SAID_BESIDE, Needed, model_files, vae_files

NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::(.+))?", re.ASCII)
MAIN = "main"
PART = 1 << 20  # bytes of a file in memory
COMMIT, SHA256 = re.compile("[0-9a-f]{40}"), re.compile("[0-9a-f]{64}")

OnDownload = Callable[[str, int], Callable[[int], object]]
"""Told what is fetched and of how many files; what it gives is called after each."""


@dataclass(frozen=True)
class Downloaded:
    """What was fetched of a repository.

    Attributes:
        path: What is read: a file, or a folder of diffusers.
        repository: Its owner and name.
        revision: The commit, whatever branch or tag was asked for.
        file: The file that is read, by its name there; empty for a folder.
        licence: As the model card names it; empty where it does not.
    """

    path: Path
    repository: str
    revision: str
    file: str
    licence: str

    @property
    def name(self) -> str:
        """Of the model, without its owner or its file's ending."""
        return PurePosixPath(self.file).stem or self.repository.rpartition("/")[2]


def is_hub_name(source: str) -> bool:
    """Whether a source can be a repository's name: nothing lies there, and it names no file."""
    match = NAME.fullmatch(source)
    is_file = match is not None and PurePosixPath(match[1]).suffix in CHECKPOINTS
    return match is not None and not is_file and not os.path.lexists(source)


def fetch_model(
    source: str, revision: str | None, variant: str | None, on_download: OnDownload
) -> Downloaded:
    """Fetch a denoiser into huggingface_hub's cache, or find it there.

    Args:
        source: ``OWNER/NAME``, or ``OWNER/NAME:FILE`` for a file of it.
        revision: A branch, tag or commit; None for the main branch.
        variant: Of a folder's weights, as diffusers has them.
        on_download: Told of the files.

    Raises:
        CheckpointError: It is not to be had, or has no denoiser that could be read.
    """
    repository, file = _split(source)
    return _fetch(
        repository,
        revision or MAIN,
        lambda names: model_files(repository, names, file, variant),
        on_download,
    )


def fetch_vae(source: str, on_download: OnDownload) -> Downloaded:
    """Fetch a VAE of diffusers, at its main branch, as `fetch_model` does a denoiser."""
    repository, file = _split(source)
    if file:
        raise CheckpointError(
            f"A VAE is a folder of diffusers, and {source} is one file",
            f"Name its repository: {repository}",
        )
    return _fetch(repository, MAIN, lambda names: vae_files(repository, names), on_download)


def _split(source: str) -> tuple[str, str]:
    match = NAME.fullmatch(source)
    assert match is not None, source  # `is_hub_name` was asked
    return match[1], match[2] or ""


def _fetch(
    repository: str, revision: str, choose: Callable[[Set[str]], Needed], on_download: OnDownload
) -> Downloaded:
    _check_installed(repository)
    with _quiet():
        commit, names = _listing(repository, revision)
        needed = choose(names)
        moved = on_download(f"downloading {repository}", len(needed.files))
        _download(repository, needed.files[0], revision)  # keeps what the branch is, for offline
        for name in needed.files:
            path = _download(repository, name, commit)
            moved(1)
        folder = path.parents[name.count("/")]
        if name.endswith(".json"):  # the list of the weights' shards
            shards = shards_of(path)
            moved = on_download(f"downloading the weights of {repository}", len(shards))
            for shard in shards:
                _download(repository, str(PurePosixPath(name).with_name(shard)), commit)
                moved(1)
    _check_whole(repository, folder, needed)
    return Downloaded(
        path=folder / needed.place,
        repository=repository,
        revision=commit,
        file=needed.place if (folder / needed.place).is_file() else "",
        licence=_licence(folder / CARD),
    )


def _check_installed(repository: str) -> None:
    try:
        import huggingface_hub  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "huggingface_hub":
            raise
        raise CheckpointError(
            f"There is no {repository} here, and a repository on a hub needs the package "
            "huggingface_hub, which is not installed",
            "Check the path, or install it with: pip install 'pitstop[hub]'",
        ) from error


def _listing(repository: str, revision: str) -> tuple[str, Set[str]]:
    """The commit of a revision, and the names of its files; offline, of those in the cache."""
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return _cached(repository, revision)
    with told(repository, revision):
        info = HfApi().model_info(repository, revision=revision)
        names = {file.rfilename for file in info.siblings or () if _is_plain(file.rfilename)}
    if not isinstance(info.sha, str) or not COMMIT.fullmatch(info.sha):
        raise no_hub(f"the commit of {repository} is {info.sha!r:.60}")
    return info.sha, names


def _is_plain(name: str) -> bool:
    """Whether a file's name stays inside its repository on every system."""
    return not {"", ".", ".."} & set(re.split(r"[/\\]", name)) and "\0" not in name


def _cached(repository: str, revision: str) -> tuple[str, Set[str]]:
    from huggingface_hub import CacheNotFound, scan_cache_dir

    with contextlib.suppress(CacheNotFound):
        for repo in scan_cache_dir().repos:
            for one in (
                repo.revisions if (repo.repo_id, repo.repo_type) == (repository, "model") else ()
            ):
                if revision in {one.commit_hash, *one.refs}:
                    paths = (file.file_path.relative_to(one.snapshot_path) for file in one.files)
                    return one.commit_hash, {path.as_posix() for path in paths}
    raise not_cached(
        f"There is no {repository} here, and not in huggingface_hub's cache at {revision}"
    )


def _download(repository: str, name: str, revision: str) -> Path:
    from huggingface_hub import hf_hub_download

    with told(repository, revision):
        path = Path(hf_hub_download(repository, name, revision=revision))
        _check_bytes(path, f"{name} of {repository}")
    return path


def _check_bytes(path: Path, named: str) -> None:
    """Compare a file with its sha256 where the cache names it so: huggingface_hub does not.

    Raises:
        CheckpointError: They differ.
    """
    kept = path.resolve()
    if not SHA256.fullmatch(kept.name):
        return
    digest = hashlib.sha256()
    with kept.open("rb") as file:
        while part := file.read(PART):
            digest.update(part)
    if digest.hexdigest() != kept.name:
        raise CheckpointError(
            f"{named} is damaged: its bytes are not those of its sha256",
            f"Remove {kept} and run again, which fetches it anew",
        )


def _check_whole(repository: str, folder: Path, needed: Needed) -> None:
    """See that a pipeline's own list of its parts is had: a cache may hold a part of them."""
    if PIPELINE not in needed.files:
        return
    parts = read_json(folder / PIPELINE)
    for name in SAID_BESIDE:
        part, _, file = name.rpartition("/")
        if part and file and any(parts.get(part) or ()) and name not in needed.files:
            raise not_cached(f"huggingface_hub's cache has {repository} without its {name}")


def _licence(card: Path) -> str:
    """What the head of a model card calls the licence."""
    from huggingface_hub import metadata_load
    from yaml import YAMLError

    try:
        head = metadata_load(card) if card.is_file() else None
    except (ValueError, YAMLError):  # a card without sense says nothing
        return ""
    told = (head or {}).get("license")
    if told == "other":
        told = (head or {}).get("license_name") or told
    return " ".join(str(told).split()) if isinstance(told, str) else ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without huggingface_hub's bars: the stages are shown by who asked."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
