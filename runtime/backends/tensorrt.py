"""TensorRT: engines of `pitstop build --backend tensorrt`, from 10.3 (JetPack 6) on.

The module comes with JetPack, or as a wheel. On a Jetson it belongs to the system's Python, so an
environment must be made with ``--system-site-packages``.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from typing import Any

from ..backend import Rank, SessionOptions
from ..builder import BuildRequest, OnPhase
from ..bundle.engine_key import HARDWARE_COMPATIBLE, VERSION_COMPATIBLE
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
from ..machine.nvidia import cuda_major_of, is_jetson
from ..session import Session

NEEDS_ENGINE = True
MEASURES = True
RECIPE = engine_build.RECIPE

MODULE = "tensorrt"
OLDEST = (10, 3)  # the first that runs Q/DQ with fp16 scales
INSTALL = (
    "pip install 'pitstop[tensorrt]'; on a Jetson sudo apt install nvidia-jetpack, and an "
    "environment with --system-site-packages"
)


def why_not() -> str | None:
    why = why_no_library() or why_too_new("TensorRT", MODULE, cuda_major())
    return all_that_is_missing([why, why_no_device()])


def rank(options: SessionOptions, engines: Collection[str]) -> Rank | None:
    return rank_engines("tensorrt", options, engines)


def open_graph(graph: GraphFile, options: SessionOptions) -> Session:
    return open_engine("tensorrt", graph, options)


def import_library() -> Any:
    return importlib.import_module(MODULE)


def why_no_library() -> str | None:
    if not is_installed(MODULE):
        return f"TensorRT is not installed ({INSTALL})"
    try:
        module = import_library()
    except (ImportError, OSError, RuntimeError) as error:  # its libraries are not there
        return f"TensorRT is installed but does not load: {str(error).splitlines()[0]} ({INSTALL})"
    return too_old(str(module.__version__))


def too_old(version: str) -> str | None:
    """Say that a version is too old, or None where it is not."""
    if not is_older(version, OLDEST):
        return None
    oldest = ".".join(map(str, OLDEST))
    return (
        f"TensorRT {version} is older than {oldest} ({INSTALL}; on JetPack 6.0 take 6.1 or newer)"
    )


def cuda_major() -> str:
    return cuda_major_of("tensorrt")


def compatibility() -> tuple[str, ...]:
    """NVIDIA's guide leaves hardware compatibility out on JetPack."""
    return (VERSION_COMPATIBLE,) if is_jetson() else (HARDWARE_COMPATIBLE, VERSION_COMPATIBLE)


def build(request: BuildRequest, on_phase: OnPhase) -> None:
    engine_build.build_plan(import_library(), request, on_phase, keeps_timings=True)
