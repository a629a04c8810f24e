"""A set of images, in an .npz as ADM's evaluator takes it or a folder of PNGs, part by part."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from ... import OptionError
from ...runtime import array_file, picture
from ...runtime.jobs.folder import INDEX_FILE, NUMBERED, PICTURE
from ...runtime.jobs.npz_file import ARRAY
from ...runtime.picture import has_wide_channels, open_picture
from ...runtime.said import reason

Pixels = npt.NDArray[np.uint8]
"""uint8 [image, row, column, 3]; grey images have three equal channels."""

MODES = ("L", "RGB")
UNREAD = (
    ".jpg",
    ".jpeg",
    ".webp",
    ".bmp",
    ".tif",
    ".tiff",
    ".gif",
    ".avif",
    ".ppm",
    ".pgm",
    ".jp2",
    ".jfif",
    ".tga",
)
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
MAX_HEADER = 10_000  # bytes, NumPy's own bound
MEMBER = f"{ARRAY}.npy"
STATISTICS = ("mu.npy", "sigma.npy")  # that ADM's reference sets have beside their images
NPZ = "Name an .npz with `arr_0`, uint8 [image, row, column, 3], or a folder of PNGs"


@dataclass(frozen=True)
class ImageSet:
    """Images of one size on disk.

    Attributes:
        path: Of the file or folder.
        count: How many there are.
        size: Rows and columns of each.
        files: Of a folder, in the order in which they are read; empty for a file.
        has_statistics: Whether a file holds a mean and covariance beside its images.
    """

    path: Path
    count: int
    size: tuple[int, int]
    files: tuple[Path, ...] = ()
    has_statistics: bool = False

    def parts(self, size: int) -> Iterator[Pixels]:
        """The images in order, ``size`` of them in memory at a time.

        Raises:
            OptionError: One is broken, or of another size than the first.
        """
        if self.files:
            for start in range(0, self.count, size):
                yield np.stack([self._picture(f) for f in self.files[start : start + size]])
            return
        with _array(self.path) as (file, shape):
            for start in range(0, self.count, size):
                yield _read_part(self.path, file, (min(size, self.count - start), *shape[1:]))

    def _picture(self, file: Path) -> Pixels:
        pixels = _read_picture(file)
        if pixels.shape[:2] != self.size:
            found, first = (
                f"{rows} x {columns}" for rows, columns in (pixels.shape[:2], self.size)
            )
            raise OptionError(
                f"{file} is {found}, and {self.files[0].name} {first}",
                "Put images of one size into the folder",
            )
        return pixels


def open_set(path: Path) -> ImageSet:
    """Look at a set, without its images but the first.

    A folder has no order of its own: its images are taken in one that a fixed seed gives, so that
    no class comes all at once. Of folders that ``pitstop generate`` drew into, the grid is left
    out.

    Raises:
        OptionError: There is none, or it holds nothing that can be read.
    """
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise OptionError(f"There is no {path}", NPZ)
    with _array(path) as (_, shape), zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    return ImageSet(path, shape[0], shape[1:3], has_statistics=names.issuperset(STATISTICS))


def _open_folder(path: Path) -> ImageSet:
    found = sorted(file for file in path.rglob("*") if file.is_file())
    drawn = {file.parent for file in found if file.name == INDEX_FILE}
    files = [
        file
        for file in found
        if file.suffix.lower() == PICTURE
        and (file.parent not in drawn or NUMBERED.fullmatch(file.name))
    ]
    if not files:
        raise OptionError(f"{path} has no PNGs", NPZ)
    unread = sum(file.suffix.lower() in UNREAD for file in found)
    if unread:
        raise OptionError(
            f"{path} has {unread} images beside its PNGs that would not be read",
            "Convert them to PNGs of one size, or take them away",
        )
    order = np.random.default_rng(0).permutation(len(files))
    files = [files[index] for index in order]
    rows, columns, _ = _read_picture(files[0]).shape
    return ImageSet(path, len(files), (rows, columns), tuple(files))


def _read_picture(file: Path) -> Pixels:
    try:
        with open_picture(file) as image:
            if image.mode not in MODES or has_wide_channels(image):
                bits = " of 16 bits" if has_wide_channels(image) else ""
                raise OptionError(
                    f"{file} has pixels of {image.mode}{bits}, not of {' or '.join(MODES)}",
                    "Convert it to 8-bit RGB or grey",
                )
            if image.has_transparency_data or getattr(image, "n_frames", 1) > 1:
                raise OptionError(
                    f"{file} is transparent in places, or has several frames",
                    "Convert it to one opaque picture",
                )
            return np.asarray(image.convert("RGB"))
    except picture.BROKEN as error:
        raise OptionError(
            f"{file} is no whole picture ({reason(error)})", "Draw or copy it again"
        ) from error


@contextlib.contextmanager
def _array(path: Path) -> Iterator[tuple[IO[bytes], tuple[int, int, int, int]]]:
    """The images' bytes in a file, and their shape."""
    with contextlib.ExitStack() as opened:
        try:
            archive = opened.enter_context(zipfile.ZipFile(path))
            if MEMBER not in archive.namelist():
                raise OptionError(f"{path} has no array {ARRAY}", NPZ)
            file = opened.enter_context(archive.open(MEMBER))
            shape = _shape(path, file, archive.getinfo(MEMBER).file_size)
        except array_file.BROKEN as error:
            raise OptionError(f"{path} cannot be read ({reason(error)})", NPZ) from error
        yield file, shape


def _shape(path: Path, file: IO[bytes], length: int) -> tuple[int, int, int, int]:
    version = np.lib.format.read_magic(file)
    if version not in HEADERS:
        raise OptionError(f"{path} has a header of version {version}", "Save it with np.savez")
    shape, by_columns, dtype = HEADERS[version](file, max_header_size=MAX_HEADER)
    whole = len(shape) == 4 and min(shape) > 0 and shape[-1] == 3
    if dtype != np.uint8 or not whole:
        raise OptionError(f"{ARRAY} in {path} is {dtype} {list(shape)}", NPZ)
    if by_columns:
        raise OptionError(
            f"{ARRAY} in {path} is {dtype} {list(shape)} in Fortran's order",
            "Save `numpy.ascontiguousarray` of it",
        )
    images, rows, columns, channels = shape
    if length - file.tell() != images * rows * columns * channels:
        raise OptionError(f"{path} holds fewer images than it says", "Draw or copy it again")
    return images, rows, columns, channels


def _read_part(path: Path, file: IO[bytes], shape: tuple[int, ...]) -> Pixels:
    count = int(np.prod(shape))
    try:
        content = file.read(count)
    except array_file.BROKEN as error:
        raise OptionError(
            f"{path} is damaged ({reason(error)})", "Draw or copy it again"
        ) from error
    if len(content) != count:
        raise OptionError(f"{path} ends too early", "Draw or copy it again")
    return np.frombuffer(bytearray(content), np.uint8).reshape(shape)  # PyTorch wants to write
