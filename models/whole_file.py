"""A file that is written whole or not at all, as `runtime.whole_file` has it.

The models stand without any other room, so they have their own.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a file beside ``path`` to fill, and rename it to ``path`` when the block ends well.

    After an error or Ctrl-C nothing of it is left, and an older file stays as it was.

    Raises:
        OSError: It cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield beside
        beside.replace(path)
    finally:
        with contextlib.suppress(OSError):  # as of a name that no file can have
            beside.unlink(missing_ok=True)
