"""What the two TensorRT backends do alike: say what is missing, and open a bundle's engines."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .backend import Session, SessionOptions
from .bundle import Bundle
from .cuda import Cuda, import_cudart, why_no_cudart
from .engines import find_engine, key_for
from .errors import BackendUnavailable
from .gpu import read_driver, why_no_gpu
from .manifest import FILE_NAME, GraphSpec, Manifest
from .plan import EngineSession, load_engine
from .plan_loop import EngineLoop
from .resident import Loop


def is_installed(module: str) -> bool:
    """Whether there is code to import: the stubs for type checkers have none."""
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None


def all_that_is_missing(reasons: Sequence[str | None]) -> str | None:
    """One line of what must be mended before a backend can run, or None."""
    missing = [reason for reason in reasons if reason]
    return ", and ".join(missing) if missing else None


def why_no_device() -> str | None:
    """Say why no GPU can be used from Python here, or None where one can."""
    return all_that_is_missing([why_no_gpu(), why_no_cudart()])


def open_engine(
    module: Any, builder: str, path: Path, spec: GraphSpec, options: SessionOptions
) -> Session:
    """Open the engine that was built here from a graph of a bundle.

    Args:
        module: TensorRT's Python.
        builder: ``tensorrt`` or ``tensorrt-rtx``.
        path: The ONNX file in the bundle.
        spec: What flows in and out of it.
        options: None of them is for engines.

    Raises:
        PitstopError: No engine was built for this graph, GPU and version, or it does not load.
    """
    if options.provider is not None:
        raise BackendUnavailable(
            f"The {builder} backend has no {options.provider}: execution providers are ONNX "
            "Runtime's",
            "Leave out `--provider`, or choose `--backend onnxruntime`",
        )
    engine = load_engine(module, find_plan(module, builder, path))
    gpu = read_driver().gpus[0]
    device = f"{builder} {module.__version__} on {gpu.name}"
    cuda = Cuda(import_cudart())

    def open_step(bundle: Bundle, step: GraphSpec, denoiser: EngineSession) -> Loop | None:
        plan = find_plan(module, builder, bundle.path(step.path))
        stepping = EngineSession(load_engine(module, plan), step, cuda, device)
        return EngineLoop(denoiser, stepping, cuda)

    return EngineSession(engine, spec, cuda, device, open_step)


def find_plan(module: Any, builder: str, path: Path) -> Path:
    """The plan that was built from a graph and runs here.

    Args:
        module: TensorRT's Python.
        builder: ``tensorrt`` or ``tensorrt-rtx``.
        path: The graph, in a bundle that was opened before.

    Raises:
        EngineError: There is none; the message says what differs and how to build one.
    """
    folder = next(place for place in path.parents if (place / FILE_NAME).is_file())
    bundle = Bundle(folder, Manifest.from_json((folder / FILE_NAME).read_text(encoding="utf-8")))
    [name] = [name for name, spec in bundle.manifest.graphs.items() if folder / spec.path == path]
    here = key_for(
        bundle,
        name,
        builder=builder,
        builder_version=str(module.__version__),
        compute_capability=read_driver().gpus[0].compute_capability,
    )
    return find_engine(bundle, here).plan
