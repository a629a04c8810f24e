"""Files that a command writes must be none that it reads, and not one another."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from .. import OptionError

Places = Mapping[str, Path | None]  # by the option or argument that names them


def check_apart(writes: Places, reads: Places) -> None:
    """Refuse a file that would be written over another one of the same command.

    Raises:
        OptionError: Two names lead to one file.
    """
    taken = {_place(path): name for name, path in reads.items() if path is not None}
    for option, path in _given(writes):
        if (other := taken.get(_place(path))) is not None:
            raise OptionError(f"{path} is both {other} and {option}", _choose(option))
        taken[_place(path)] = option


def check_outside(writes: Places, bundle: Path) -> None:
    """Refuse a file in a bundle, whose own files are read by their names.

    Raises:
        OptionError: One is.
    """
    for option, path in _given(writes):
        if _place(path).is_relative_to(_place(bundle)):
            raise OptionError(f"{path} lies in the bundle {bundle}", _choose(option))


def check_beside_images(writes: Places, out: Path) -> None:
    """Refuse a file that would be the folder of images itself, or one of its own files.

    Raises:
        OptionError: It would.
    """
    from ..runtime.jobs.folder import is_named_as_own

    folder = _place(out)
    for option, path in _given(writes):
        if folder.is_relative_to(_place(path)):
            raise OptionError(
                f"{path} cannot be {option}: `--out` is a folder there", _choose(option)
            )
        if _place(path).parent == folder and is_named_as_own(path.name):
            raise OptionError(f"{path} is named as a file of `--out` is", _choose(option))


def _given(writes: Places) -> list[tuple[str, Path]]:
    return [(f"`{option}`", path) for option, path in writes.items() if path is not None]


def _place(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _choose(option: str) -> str:
    return f"Choose another file with {option}"
