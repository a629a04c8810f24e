"""TensorRT: engines of `pitstop build --backend tensorrt`, from 10.3 (JetPack 6) on.

The module comes with JetPack, or as a wheel. On a Jetson it belongs to the system's Python, so an
environment must be made with ``--system-site-packages``.
"""

from __future__ import annotations

import importlib
from typing import Any

from ..backend import SessionOptions
from ..bundle.folder import GraphFile
from ..devices.engine_backend import all_that_is_missing, is_installed, open_engine, why_no_device
from ..session import Session

NEEDS_ENGINE = True

MODULE = "tensorrt"
OLDEST = (10, 3)  # the first that runs Q/DQ with fp16 scales
INSTALL = (
    "pip install 'pitstop[tensorrt]'; on a Jetson sudo apt install nvidia-jetpack, and an "
    "environment with --system-site-packages"
)


def why_not() -> str | None:
    return all_that_is_missing([why_no_library(), why_no_device()])


def import_library() -> Any:
    return importlib.import_module(MODULE)


def why_no_library() -> str | None:
    """Say why engines cannot be built, with a GPU or without, or None where they can."""
    if not is_installed(MODULE):
        return f"TensorRT is not installed ({INSTALL})"
    try:
        module = import_library()
    except (ImportError, OSError, RuntimeError) as error:  # its libraries are not there
        return f"TensorRT is installed but does not load: {str(error).splitlines()[0]} ({INSTALL})"
    return too_old(str(module.__version__))


def too_old(version: str) -> str | None:
    """Say that a version is too old, or None where it is not."""
    if tuple(int(part) for part in version.split(".")[:2]) >= OLDEST:
        return None
    oldest = ".".join(map(str, OLDEST))
    return (
        f"TensorRT {version} is older than {oldest} ({INSTALL}; on JetPack 6.0 take 6.1 or newer)"
    )


def open_graph(graph: GraphFile, options: SessionOptions) -> Session:
    return open_engine(import_library(), "tensorrt", graph, options)
