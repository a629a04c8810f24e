"""A picture in a file, as Pillow opens it, and what Pillow raises where there is none.

Pillow reads many more formats than these. Each of them gives pictures of 8 bits or says that it
has more, none is drawn by a program of somebody else's, and a plain file is all that is opened.
"""

from __future__ import annotations

import os
import re
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from .. import OptionError
from .said import reason

PNG = ("PNG",)
FORMATS = (*PNG, "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
BROKEN = (  # what Pillow's readers raise at damaged files, each its own
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
WIDE = re.compile(r"(?!BGR).*;16")  # raw pixels of 16 bits a channel; BGR;16 is 5, 6 and 5


def open_picture(path: str | os.PathLike[str], formats: Sequence[str] = FORMATS) -> Image.Image:
    """A picture whose pixels are not read yet.

    Raises:
        FileNotFoundError: There is none.
        OSError: It is no plain file, such as a pipe, which could be waited for without an end.
        Exception: One of `BROKEN`.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError("it is no file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large, and may be
        return Image.open(path, formats=list(formats))


def read_drawn(path: Path) -> Image.Image:
    """A picture that pitstop drew.

    Raises:
        OptionError: It is gone, or damaged.
    """
    try:
        with open_picture(path, PNG) as picture:
            picture.load()
            return picture
    except BROKEN as error:
        raise OptionError(
            f"{path} is no whole picture ({reason(error)})", "Draw it again"
        ) from error


def has_wide_channels(image: Image.Image) -> bool:
    """Whether reading the pixels rounds them to 8 bits; False where they are read already."""
    for codec, _, _, told in getattr(image, "tile", None) or ():
        args = told if isinstance(told, tuple) else (told,)
        if any(isinstance(arg, str) and WIDE.match(arg) for arg in args):
            return True
        if codec.startswith("ppm") and args[-1] > 255:
            return True
    return False
