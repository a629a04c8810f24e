"""What the two TensorRT backends do alike: say what is missing, and open a bundle's engines."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ... import BackendUnavailable, EngineError
from ..backend import SessionOptions
from ..bundle.engine_key import VERSION_COMPATIBLE
from ..bundle.engines import find_engine, key_for
from ..bundle.folder import GraphFile
from ..bundle.manifest import STEP, Manifest
from ..machine.driver import read_driver, why_no_gpu
from ..sampling.conditioner import Conditioner
from ..sampling.loop import Loop
from ..session import Session
from .cuda import Cuda, import_cudart, why_no_cudart
from .engine_loop import EngineLoop
from .engine_session import EngineSession, load_engine

if TYPE_CHECKING:
    import tensorrt as trt


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


def open_engine(module: Any, builder: str, graph: GraphFile, options: SessionOptions) -> Session:
    """Open the engine that was built here from a graph of a bundle.

    Args:
        module: TensorRT's Python.
        builder: ``tensorrt`` or ``tensorrt-rtx``.
        graph: In a bundle.
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
    gpu = read_driver().gpus[0]
    bundle = graph.bundle
    assert bundle is not None, "engines are a bundle's"

    def load(name: str) -> trt.ICudaEngine:
        here = key_for(
            bundle,
            name,
            builder=builder,
            builder_version=module.__version__,
            compute_capability=gpu.compute_capability,
        )
        found = find_engine(bundle, here)
        compatible = VERSION_COMPATIBLE in found.key.flags
        return load_engine(module, found.plan, version_compatible=compatible)

    engine = load(graph.name)
    cuda = Cuda(import_cudart())
    device = f"{builder} {module.__version__} on {gpu.name}"

    def open_step(
        denoiser: EngineSession,
        manifest: Manifest,
        step: GraphFile,
        conditioner: Conditioner | None,
    ) -> Loop | None:
        try:
            stepping = load(STEP)
        except EngineError:  # it was not built: then the host takes the step
            return None
        session = EngineSession(stepping, step.spec, cuda, device)
        return EngineLoop(denoiser, session, cuda, manifest, conditioner)

    return EngineSession(engine, graph.spec, cuda, device, open_step)
