"""TensorRT-RTX: engines of `pitstop build --backend tensorrt-rtx`, for RTX GPUs.

Its Python bindings are one wheel; the libraries come with another, which loads them when it is
imported, or with an installed TensorRT-RTX.
"""

from __future__ import annotations

import importlib
from typing import Any

from ..backend import SessionOptions
from ..bundle.folder import GraphFile
from ..devices.engine_backend import all_that_is_missing, is_installed, open_engine, why_no_device
from ..session import Session

NEEDS_ENGINE = True

MODULE = "tensorrt_rtx_bindings"
LIBRARIES = "onnxruntime_ep_nv_tensorrt_rtx"
INSTALL = "pip install 'pitstop[tensorrt-rtx]'"


def why_not() -> str | None:
    return all_that_is_missing([why_no_library(), why_no_device()])


def import_library() -> Any:
    """The bindings, after the libraries that they need."""
    if is_installed(LIBRARIES):
        importlib.import_module(LIBRARIES)
    return importlib.import_module(MODULE)


def why_no_library() -> str | None:
    """Say why engines cannot be built, with a GPU or without, or None where they can."""
    if not is_installed(MODULE):
        return f"TensorRT-RTX is not installed ({INSTALL})"
    try:
        import_library()
    except (ImportError, OSError, RuntimeError) as error:  # its libraries are not there
        words = str(error).splitlines()[0]
        return f"TensorRT-RTX is installed but does not load: {words} ({INSTALL})"
    return None


def open_graph(graph: GraphFile, options: SessionOptions) -> Session:
    return open_engine(import_library(), "tensorrt-rtx", graph, options)
