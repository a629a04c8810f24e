"""A folder that takes another's place at once, under locks of the file system.

A lock ends with its process, however that ends, and is one for all containers that share the
folder, which a process's number is not. Where a file system has no locks, nothing of others is
touched.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

PARTIAL = ".partial"
TOKEN = 8  # letters of what tells folders beside one place apart
OLD = ".old"
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of renameat2(2)


@contextlib.contextmanager
def beside(place: Path, *, mode: int = 0o777) -> Iterator[Path]:
    """Give a new hidden folder beside ``place`` that is removed after the block.

    What killed processes left beside ``place`` is removed first.

    Args:
        place: Which needs not be there.
        mode: Who may use the new folder.

    Raises:
        OSError: It cannot be made.
    """
    remove_abandoned(place)
    with contextlib.ExitStack() as made:
        while True:
            folder = place.with_name(f".{place.name}.{secrets.token_hex(4)}{PARTIAL}")
            folder.mkdir(mode)
            try:
                made.enter_context(held(folder))
            except FileNotFoundError:  # taken for abandoned before it was held
                continue
            made.callback(shutil.rmtree, folder, ignore_errors=True)
            yield folder
            return


@contextlib.contextmanager
def held(
    folder: Path, *, shared: bool = False, on_wait: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Hold a folder: a shared hold waits for an exclusive one to end, an exclusive one for all.

    Args:
        folder: What is held.
        shared: Whether others may hold it too.
        on_wait: Told where somebody has to be waited for.

    Raises:
        OSError: There is no such folder.
    """
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        with contextlib.ExitStack() as opened:
            opened.callback(os.close, number)
            with contextlib.suppress(OSError):  # a file system without locks
                if not _locks(number, how):
                    on_wait()
                    fcntl.flock(number, how)
            if not os.path.samestat(os.fstat(number), folder.stat()):
                continue  # another one took its place meanwhile
            yield
            return


def put_in_place(partial: Path, place: Path) -> None:
    """Give a folder the name of another, which is ``partial`` then or gone.

    Who calls it holds ``place``, so that nobody puts back what is on its way.

    Raises:
        OSError: That could not be done, and ``place`` is what it was.
    """
    if not place.exists():
        partial.rename(place)
    elif not _exchange(partial, place):
        _rename_both(partial, place)


def put_back(place: Path) -> None:
    """Give a folder that was moved away its name again, where who moved it was killed."""
    with contextlib.suppress(OSError):  # no folder to look in, no right, or another was first
        for old in _left(place):
            with _abandoned(old) as is_abandoned:
                if is_abandoned and old.name.endswith(OLD + PARTIAL) and not place.exists():
                    old.rename(place)


def remove_abandoned(place: Path) -> None:
    """Remove what killed processes left beside a folder, and put back what they moved away."""
    put_back(place)
    for folder in _left(place):
        with _abandoned(folder) as is_abandoned:
            if is_abandoned:
                shutil.rmtree(folder, ignore_errors=True)


def _left(place: Path) -> list[Path]:
    """What `beside` and `put_in_place` have made for this folder, and an older pitstop."""
    name = re.compile(rf"\.{re.escape(place.name)}\.[0-9a-f]+({OLD})?{PARTIAL}")
    return sorted(path for path in place.parent.iterdir() if name.fullmatch(path.name))


@contextlib.contextmanager
def _abandoned(folder: Path) -> Iterator[bool]:
    """Whether nobody works in a folder, and nobody begins to before the block ends."""
    token = folder.name.removesuffix(PARTIAL).removesuffix(OLD).rpartition(".")[2]
    if len(token) < TOKEN:  # a process's number, of an older pitstop, which held nothing
        yield not Path(f"/proc/{token}").exists()
        return
    try:
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield False
        return
    try:
        yield _locks(number)
    finally:
        os.close(number)


def _locks(number: int, how: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(number, how | fcntl.LOCK_NB)
    except OSError:  # somebody works there, or the file system has no locks
        return False
    return True


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change names at once, where the system can."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    names = (os.fsencode(one), os.fsencode(other))
    return bool(rename(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0)


def _rename_both(partial: Path, place: Path) -> None:
    """The same in two steps; between them `put_back` helps."""
    old = place.with_name(f".{place.name}.{secrets.token_hex(4)}{OLD}{PARTIAL}")
    try:
        place.rename(old)
        partial.rename(place)
    except BaseException:
        if not place.exists():
            old.rename(place)
        raise
    done = old.with_name(old.name.replace(OLD + PARTIAL, PARTIAL))  # not to be put back any more
    old.rename(done)
    shutil.rmtree(done, ignore_errors=True)
