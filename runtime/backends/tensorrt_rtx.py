"""TensorRT-RTX: engines of `pitstop build --backend tensorrt-rtx`, for RTX GPUs.

NVIDIA's package ``tensorrt-rtx`` is taken where it is installed. Else its Python bindings are one
wheel, and the libraries come with another, which loads them when it is imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from typing import Any

from ..backend import Rank, SessionOptions
from ..builder import BuildRequest, OnPhase
from ..bundle.folder import GraphFile
from ..devices import engine_build
from ..devices.engine_backend import (
    all_that_is_missing,
    is_installed,
    is_older,
    open_engine,
    rank_engines,
    why_no_device,
    why_too_new,
)
from ..machine.nvidia import cuda_major_of
from ..session import Session

NEEDS_ENGINE = True
MEASURES = False
RECIPE = engine_build.RECIPE
# NVIDIA's release notes of 1.2: "required when using CUDA stream capture".
FLAGS = ("REQUIRE_USER_ALLOCATION",)

PACKAGE = "tensorrt_rtx"
BINDINGS = "tensorrt_rtx_bindings"
LIBRARIES = "onnxruntime_ep_nv_tensorrt_rtx"
OLDEST = (1, 2)  # the first with that flag
INSTALL = "pip install 'pitstop[tensorrt-rtx]'"


def why_not() -> str | None:
    why = why_no_library() or why_too_new("TensorRT-RTX", "tensorrt-rtx", cuda_major())
    return all_that_is_missing([why, why_no_device()])


def rank(options: SessionOptions, engines: Collection[str]) -> Rank | None:
    return rank_engines("tensorrt-rtx", options, engines)


def open_graph(graph: GraphFile, options: SessionOptions) -> Session:
    return open_engine("tensorrt-rtx", graph, options)


def import_library() -> Any:
    """NVIDIA's package, or the bindings after the libraries that they need."""
    if is_installed(PACKAGE):
        return importlib.import_module(PACKAGE)
    if is_installed(LIBRARIES):
        importlib.import_module(LIBRARIES)
    return importlib.import_module(BINDINGS)


def why_no_library() -> str | None:
    if not is_installed(PACKAGE) and not is_installed(BINDINGS):
        return f"TensorRT-RTX is not installed ({INSTALL})"
    try:
        version = str(import_library().__version__)
    except (ImportError, OSError, RuntimeError) as error:  # its libraries are not there
        words = str(error).splitlines()[0]
        return f"TensorRT-RTX is installed but does not load: {words} ({INSTALL})"
    if is_older(version, OLDEST):
        return f"TensorRT-RTX {version} is older than {'.'.join(map(str, OLDEST))} ({INSTALL})"
    return None


def cuda_major() -> str:
    return cuda_major_of("tensorrt-rtx")


def compatibility() -> tuple[str, ...]:
    """None: an engine is for every model of its compute capabilities as it is."""
    return ()


def build(request: BuildRequest, on_phase: OnPhase) -> None:
    engine_build.build_plan(import_library(), request, on_phase, flags=FLAGS)
