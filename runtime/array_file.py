"""What NumPy and zipfile raise at a damaged ``.npy`` or ``.npz``: at each byte another kind."""

from __future__ import annotations

import lzma
import struct
import tokenize
import zipfile
import zlib

BROKEN = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,  # of a shape that the header made up
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
