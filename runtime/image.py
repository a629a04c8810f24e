"""From latents in pixel space to PNG files with their parameters inside."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .. import OptionError
from .picture import PNG, open_picture
from .sampling.sampler import Latent
from .whole_file import whole_file

METADATA_KEY, PIXELS_KEY = "pitstop", "pitstop-pixels-sha256"
MODES = {1: "L", 3: "RGB"}


def to_images(pixels: Latent) -> list[Image.Image]:
    """Pixels [image, channel, row, column] in [-1, 1], clipped there, to 8-bit pictures."""
    levels = np.rint((np.clip(pixels, -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)
    return [
        Image.fromarray(image[0] if len(image) == 1 else np.moveaxis(image, 0, 2))
        for image in levels
    ]


def make_grid(images: Sequence[Image.Image], columns: int, *, zoom: int = 1) -> Image.Image:
    """Put pictures of one size side by side, row by row, each pixel ``zoom`` pixels wide."""
    width, height = (side * zoom for side in images[0].size)
    rows = -(-len(images) // columns)
    grid = Image.new(images[0].mode, (columns * width, rows * height))
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        large = image.resize((width, height), Image.Resampling.NEAREST)
        grid.paste(large, (column * width, row * height))
    return grid


def save_png(image: Image.Image, path: Path, parameters: Mapping[str, Any] | None = None) -> None:
    """Write a PNG, whole or not at all, with ``parameters`` as JSON in its metadata."""
    with written_whole(path) as beside:
        image.save(beside, format="PNG", pnginfo=_metadata(image, parameters))


def png_bytes(image: Image.Image, parameters: Mapping[str, Any] | None = None) -> bytes:
    """The content of what `save_png` writes."""
    content = io.BytesIO()
    image.save(content, format="PNG", pnginfo=_metadata(image, parameters))
    return content.getvalue()


def _metadata(image: Image.Image, parameters: Mapping[str, Any] | None) -> PngInfo:
    metadata = PngInfo()
    if parameters is not None:
        metadata.add_text(METADATA_KEY, json.dumps(parameters))
        metadata.add_text(PIXELS_KEY, _sha256(image))
    return metadata


@contextlib.contextmanager
def written_whole(path: Path, option: str = "--out") -> Iterator[Path]:
    """Give a file beside ``path`` to fill, and rename it to ``path`` when the block ends well.

    Args:
        path: The file.
        option: The one that names it, for the message.

    Raises:
        OptionError: ``path`` cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as beside:
            yield beside
    except OSError as error:
        elsewhere = f"hoose another place with `{option}`"
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        raise OptionError(
            f"{path} cannot be written ({error.strerror or error})",
            f"Free some space there, or c{elsewhere}" if full else f"C{elsewhere}",
        ) from error


def _sha256(image: Image.Image) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def read_parameters(path: Path, *, whole: bool = True) -> dict[str, Any] | None:
    """The parameters inside a PNG that `save_png` wrote, or None.

    Args:
        path: Of the picture.
        whole: Read the pixels too.

    Raises:
        OSError: There is no such file, or its pixels have changed.
        Exception: It is no whole picture: one of `picture.BROKEN`.
    """
    with open_picture(path, PNG) as image:
        if whole:
            image.load()
            if image.info.get(PIXELS_KEY) not in {None, _sha256(image)}:
                raise OSError(f"the pixels of {path} have changed")
        text = image.info.get(METADATA_KEY)
    return None if text is None else dict(json.loads(text))
