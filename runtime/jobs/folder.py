"""The folder that images are drawn into, and its index: the settings that all of them share.

What is true of one image stands in that image. The index says what a run must have in common with
the images to add to them, so that no folder holds images of several settings without a word.
Several processes may draw into one folder: it is held where the index or an image is written. Each
holds the index for as long as it draws, so that no other takes the folder for one that is left.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ... import FolderError
from ..bundle.in_place import held
from ..image import read_parameters, written_whole
from ..picture import BROKEN
from ..said import shortly
from .latent_file import read_latent_parameters, told_beside
from .plan import PlannedImage

INDEX_FILE = "pitstop-run.json"
INDEX_VERSION = 1
GRID_FILE = "grid.png"
PICTURE, LATENT = ".png", ".npy"
NUMBERED = re.compile(rf"[0-9]{{6,}}-.*({re.escape(PICTURE)}|{re.escape(LATENT)})", re.DOTALL)
PARTIAL_FILE = re.compile(r"\..+\.[0-9a-f]{8}\.partial", re.DOTALL)  # as `whole_file` names it
OF_ONE = ("label", "label_name", "seed", "latent_sha256")  # parameters of one image alone
PLACE = ("backend", "step_sha256")  # and of where it was drawn
MARK = "pitstop"  # a parameter that every image has which pitstop drew
REMEDY = "Choose another folder with `--out`, or draw anew in this one with `--overwrite`"

Parameters = Mapping[str, Any]


@contextlib.contextmanager
def drawing_into(
    out: Path, settings: Parameters, plan: Sequence[PlannedImage], *, overwrite: bool
) -> Iterator[None]:
    """Make a folder ready for a run, or refuse the run before anything is drawn.

    Args:
        out: The folder.
        settings: What all images of the run share, by name.
        plan: The images.
        overwrite: Remove the images that the run draws anew, and those that it does not go with.

    Raises:
        FolderError: The folder holds images of other settings, gives a seed another label, or
            cannot be written.
    """
    _make_folder(out)
    with contextlib.ExitStack() as drawing:
        with _holding(out):
            _enter(out, settings, plan, overwrite=overwrite)
            drawing.enter_context(_index_held(out))
        yield


def _enter(
    out: Path, settings: Parameters, plan: Sequence[PlannedImage], *, overwrite: bool
) -> None:
    _check_latents(out, {image.stem for image in plan} if overwrite else set())
    index = _read_index(out)
    if overwrite:
        _remove_others(out, settings, plan)
    elif index is None:
        for path, found in _images(out):
            check_same(path, _shared(found), settings)
    elif any(_images(out)) or _is_drawn_into(out):
        check_same(out, index, settings)
    _check_seeds(out, plan)
    if index != settings:
        _write_index(out, settings)


@contextlib.contextmanager
def adding_to(out: Path, settings: Parameters) -> Iterator[None]:
    """Hold a folder while images are written, so that no other run takes it over meanwhile.

    Raises:
        FolderError: One has.
    """
    if not out.exists():
        raise FolderError(
            f"{out} is gone: it was removed while images were drawn",
            "Start the run again, or choose another folder with `--out`",
        )
    with _holding(out, shared=True):
        if _read_index(out) != settings:
            raise FolderError(
                f"{out} was taken over while images were drawn: its {INDEX_FILE} has changed",
                "Choose another folder with `--out`",
            )
        yield


def is_drawn(path: Path, parameters: Parameters, *, strict: bool) -> bool:
    """Whether an image is there, whole, and drawn with ``parameters``.

    Args:
        path: Of the image.
        parameters: What it depends on, by name.
        strict: Whether it must have been drawn by the same backend too.

    Raises:
        FolderError: A whole image of pitstop's is there, drawn with other parameters.
    """
    found = _read(path, whole=True)
    if found is None:
        return False
    check_same(path, _without(found, PLACE), _without(parameters, PLACE))
    return not strict or found == parameters


def leave_folder(out: Path, settings: Parameters, plan: Sequence[PlannedImage]) -> None:
    """Remove a run's images and index from a folder, and the folder where nothing is left.

    It stays as it is where it holds images of other runs too, or another run draws into it.

    Raises:
        FolderError: That could not be done.
    """
    with _holding(out):
        planned = {image.stem for image in plan}
        images = list(_images(out))
        if _is_drawn_into(out) or any(
            path.stem not in planned or _shared(found) != settings for path, found in images
        ):
            return
        try:
            for path, _ in images:
                path.unlink(missing_ok=True)
            for path in list(out.iterdir()):
                if path.name in {GRID_FILE, INDEX_FILE} or PARTIAL_FILE.fullmatch(path.name):
                    path.unlink(missing_ok=True)
            if not any(out.iterdir()):
                out.rmdir()
        except OSError as error:
            raise _not_written(out, error) from error


def is_named_as_own(name: str) -> bool:
    """Whether a file of a folder is named as one of an image, the grid, or the index."""
    return name in {GRID_FILE, INDEX_FILE} or re.match("[0-9]{6,}-", name) is not None


def check_same(there: Path, found: Parameters, asked: Parameters) -> None:
    """See that what is there was drawn as a run asks.

    Raises:
        FolderError: It was not; the message names the first setting that differs.
    """
    if differs := difference(found, asked):
        raise FolderError(f"{there} {differs}", REMEDY)


def difference(found: Parameters, asked: Parameters) -> str | None:
    """The first setting in which what was drawn is not what a run asks."""
    for name in {**asked, **found}:
        if name not in found or name not in asked or found[name] != asked[name]:
            here, wanted = (_said(name, settings) for settings in (found, asked))
            return f"was drawn with {here}, this run has {wanted}"
    return None


def _said(name: str, settings: Parameters) -> str:
    return f"{name} {shortly(settings[name])}" if name in settings else f"no {name}"


def _check_latents(out: Path, may_go: set[str]) -> None:
    """Latents of an older pitstop do not say what drew them."""
    for path in _numbered(out):
        if path.suffix == LATENT and path.stem not in may_go and not told_beside(path).is_file():
            raise FolderError(
                f"Nothing says what {path} was drawn with",
                "Move it away, or choose another folder with `--out`",
            )


def _check_seeds(out: Path, plan: Sequence[PlannedImage]) -> None:
    """A seed has the labels that a run gives it, and no other run's beside them."""
    planned, seeds = {image.stem for image in plan}, {image.seed: image.name for image in plan}
    for path in _numbered(out):
        seed = _seed(path)
        if seed in seeds and path.stem not in planned and (found := _read(path)) is not None:
            raise FolderError(
                f"{path} was drawn with label {shortly(found.get('label_name'))}, this run has "
                f"label {shortly(seeds[seed])} for seed {seed}",
                f"{REMEDY}, or other seeds with `--seed`",
            )


def _remove_others(out: Path, settings: Parameters, plan: Sequence[PlannedImage]) -> None:
    """Remove pitstop's own images of other settings, or of seeds that the run draws anew."""
    seeds = {image.seed for image in plan}
    try:
        for path, found in _images(out):
            if _shared(found) != settings or _seed(path) in seeds:
                path.unlink(missing_ok=True)
                if path.suffix == LATENT:
                    told_beside(path).unlink(missing_ok=True)
                (out / GRID_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise _not_written(out, error) from error


def _images(out: Path) -> Iterator[tuple[Path, Parameters]]:
    """The images in a folder that pitstop drew, each with its parameters."""
    for path in _numbered(out):
        found = _read(path)
        if found is not None:
            yield path, found


def _numbered(out: Path) -> list[Path]:
    """The files of a folder that are named as images are."""
    names = (path for path in out.iterdir() if NUMBERED.fullmatch(path.name))
    return sorted(path for path in names if path.is_file())


def _seed(path: Path) -> int:
    return int(path.name.partition("-")[0])


def _read(path: Path, *, whole: bool = False) -> dict[str, Any] | None:
    """The parameters of an image; None where there is none of pitstop's, or it is not whole."""
    if not path.is_file():
        return None
    read = read_latent_parameters if path.suffix == LATENT else read_parameters
    try:
        found = read(path, whole=whole)
    except BROKEN:
        return None
    return found if found and MARK in found else None


def _read_index(out: Path) -> dict[str, Any] | None:
    """The settings in a folder's index; None where there is none, or it is damaged.

    Raises:
        FolderError: It is another version's, or may not be read.
    """
    path = out / INDEX_FILE
    if path.exists() and not path.is_file():
        raise FolderError(
            f"{path} cannot be read (it is no file)", "Choose another folder with `--out`"
        )
    try:
        content = json.loads(path.read_bytes())
        version, settings = content["version"], content["settings"]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FolderError(
            f"{path} cannot be read ({error.strerror})", "Choose another folder with `--out`"
        ) from error
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    if version != INDEX_VERSION:
        raise FolderError(
            f"{path} has version {shortly(version)}, this pitstop reads {INDEX_VERSION}",
            "Choose another folder with `--out`, or draw with the pitstop that wrote it",
        )
    return settings if isinstance(settings, dict) else None


def _write_index(out: Path, settings: Parameters) -> None:
    content = {"version": INDEX_VERSION, "settings": settings}
    with written_whole(out / INDEX_FILE) as beside:
        beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _index_held(out: Path) -> Iterator[IO[bytes]]:
    """Hold a folder's index beside other runs; who calls this holds the folder."""
    try:
        file = (out / INDEX_FILE).open("rb")
    except OSError as error:
        raise _not_written(out, error) from error
    with file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_SH)
        yield file


def _is_drawn_into(out: Path) -> bool:
    """Whether a run holds a folder's index; who calls this holds the folder."""
    try:
        with (out / INDEX_FILE).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is no index, or the file system has no locks
        return False
    return False


@contextlib.contextmanager
def _holding(out: Path, *, shared: bool = False) -> Iterator[None]:
    with contextlib.ExitStack() as hold:
        try:
            hold.enter_context(held(out, shared=shared))
        except OSError as error:
            raise _not_written(out, error) from error
        yield


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(
            f"{out} cannot be made ({error.strerror})", "Choose another folder with `--out`"
        ) from error


def _not_written(out: Path, error: OSError) -> FolderError:
    return FolderError(
        f"{out} cannot be written ({error.strerror})", "Choose another folder with `--out`"
    )


def _shared(parameters: Parameters) -> dict[str, Any]:
    return _without(parameters, (*OF_ONE, *PLACE))


def _without(parameters: Parameters, names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if name not in names}
