"""Pictures in one ``.npz`` as ADM's evaluator reads it, written picture by picture.

``arr_0`` is uint8 [image, row, column, 3]; a grey picture has three equal channels, which is what
the evaluator's network takes. What drew them stands in the comment of the archive, which NumPy and
the evaluator pass over.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..array_file import BROKEN
from ..image import written_whole

ARRAY = "arr_0"
CHANNELS = 3
OPTION = "--npz"
CHUNK = 1 << 20  # bytes
DAMAGED = tuple(kind for kind in BROKEN if kind is not OSError)  # not: may not be read
Pixels = npt.NDArray[np.uint8]


def write_npz(
    path: Path,
    pictures: Iterator[Image.Image],
    count: int,
    parameters: Mapping[str, Any],
    *,
    before_place: Callable[[], object] = lambda: None,
) -> None:
    """Write pictures of one size, whole or not at all; the same ones make the same bytes.

    Args:
        path: The file.
        pictures: Grey or RGB, one of them in memory at a time.
        count: How many there are, 1 at least.
        parameters: What drew them, as short as a comment is: 65,535 bytes of JSON.
        before_place: Called when the file is whole, before it takes the place of one that is there.

    Raises:
        OptionError: The file cannot be written.
        ValueError: There are more or fewer pictures, or of several sizes.
    """
    first = _pixels(next(pictures))
    _remove_abandoned(path)
    member = zipfile.ZipInfo(f"{ARRAY}.npy")  # of 1980: a file must not depend on when it was made
    with written_whole(path, OPTION) as beside:
        with (
            _locked(beside) as raw,
            zipfile.ZipFile(raw, "w") as archive,
            archive.open(member, "w", force_zip64=True) as file,
        ):
            shape = (count, *first.shape)
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            written = 0
            for pixels in itertools.chain([first], map(_pixels, pictures)):
                if pixels.shape != first.shape:
                    raise ValueError(f"a picture is {pixels.shape}, the first is {first.shape}")
                file.write(pixels.data)
                written += 1
            if written != count:
                raise ValueError(f"there are {written} pictures, not {count}")
            archive.comment = json.dumps(parameters).encode()
        before_place()


def is_whole(path: Path, count: int) -> bool:
    """Whether a file holds the pixels of so many pictures as `write_npz` wrote them.

    Raises:
        OSError: There is no such file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            [member] = archive.infolist()
            if (member.filename, member.compress_type) != (f"{ARRAY}.npy", zipfile.ZIP_STORED):
                return False
            with archive.open(member) as file:
                np.lib.format.read_magic(file)
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
                size = math.prod(shape) + file.tell()
                if fortran or dtype != np.uint8 or shape[0] != count or size != member.file_size:
                    return False
                while file.read(CHUNK):  # which compares the checksum at the end
                    pass
    except DAMAGED:
        return False
    return True


def read_npz_parameters(path: Path) -> dict[str, Any] | None:
    """What drew the pictures of a file that `write_npz` wrote; None where it does not say.

    Raises:
        OSError: There is no such file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            told = json.loads(archive.comment)
    except DAMAGED:
        return None
    return told if isinstance(told, dict) else None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """A new file, under a lock that ends with this process, however that ends."""
    with path.open("wb") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _remove_abandoned(path: Path) -> None:
    """Remove what killed processes left beside a file: as large as the file itself."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]+\.partial")
    for partial in path.parent.iterdir():
        if name.fullmatch(partial.name):
            with contextlib.suppress(OSError), partial.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails where somebody writes it
                partial.unlink()


def _pixels(picture: Image.Image) -> Pixels:
    return np.ascontiguousarray(picture.convert("RGB"), dtype=np.uint8)
