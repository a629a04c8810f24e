"""A file that is written whole or not at all: beside its place, and renamed when it is done."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a file beside ``path`` to fill, and rename it to ``path`` when the block ends well.

    After an error or Ctrl-C nothing of it is left, and an older file stays as it was.

    Raises:
        OSError: It cannot be written.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield beside
        beside.replace(path)
    finally:
        with contextlib.suppress(OSError):  # as of a name that no file can have
            beside.unlink(missing_ok=True)
