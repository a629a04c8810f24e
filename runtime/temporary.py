"""A temporary folder that the next run removes, where this one is killed."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .bundle.in_place import beside

OWNER_ALONE = 0o700


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Give a folder of this user's that is removed after the block.

    Raises:
        OSError: It cannot be made.
    """
    place = Path(tempfile.gettempdir()) / f"pitstop-{os.getuid()}"
    with beside(place, mode=OWNER_ALONE) as folder:
        yield folder
