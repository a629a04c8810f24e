"""What the two TensorRT backends do alike: say what is missing, and open a bundle's engines."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from ... import BackendUnavailable, EngineError
from ..backend import Place, Rank, SessionOptions
from ..backends import import_builder
from ..bundle.engine_key import VERSION_COMPATIBLE, EngineKey, as_numbers
from ..bundle.engines import find_engine, key_for
from ..bundle.folder import Bundle, GraphFile
from ..bundle.manifest import STEP, Manifest
from ..machine.driver import read_driver, why_no_gpu
from ..sampling.conditioner import Conditioner
from ..sampling.loop import Loop
from ..session import Session
from .cuda import Cuda, import_cudart, is_too_old, why_no_cudart
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


def why_too_new(title: str, package: str, cuda_major: str) -> str | None:
    """Say that a library is of a newer CUDA than the driver runs, or None where it is not."""
    driver = read_driver().cuda_version
    if driver is None or not cuda_major or not is_too_old(driver, cuda_major):
        return None
    fitting = f"{package}-cu{driver.partition('.')[0]}"
    return (
        f"{title} is of CUDA {cuda_major}, and the driver runs CUDA up to {driver} "
        f"(pip install {fitting})"
    )


def is_older(version: str, oldest: tuple[int, ...]) -> bool:
    return as_numbers(version)[: len(oldest)] < oldest


def rank_engines(name: str, options: SessionOptions, engines: Collection[str]) -> Rank | None:
    """The rank of a backend that is taken by itself where the bundle has its engine."""
    if options.provider is not None or name not in engines:
        return None
    return Place.ENGINE, "the bundle has its engine for this GPU"


def key_here(
    bundle: Bundle,
    graph: str,
    name: str,
    *,
    compute_capability: str,
    gpu: str,
    flags: tuple[str, ...] = (),
) -> EngineKey:
    """The key of the engine that this machine's builder called ``name`` would make.

    Args:
        bundle: Where it is to be.
        graph: By its name there.
        name: Of the builder.
        compute_capability: Of the GPUs that it is for.
        gpu: The model of the GPU here, which matters to a builder that measures, and to no other.
        flags: What is asked of the builder.
    """
    builder = import_builder(name)
    return key_for(
        bundle,
        graph,
        builder=name,
        builder_version=str(builder.import_library().__version__),
        cuda_major=builder.cuda_major(),
        recipe=builder.RECIPE,
        compute_capability=compute_capability,
        gpu=gpu if builder.MEASURES else "",
        flags=flags,
    )


def open_engine(name: str, graph: GraphFile, options: SessionOptions) -> Session:
    """Open the engine that was built here from a graph of a bundle.

    Args:
        name: Of the backend.
        graph: In a bundle.
        options: None of them is for engines.

    Raises:
        PitstopError: No engine was built for this graph, GPU and version, or it does not load.
    """
    if options.provider is not None:
        raise BackendUnavailable(
            f"The {name} backend has no {options.provider}: execution providers are ONNX Runtime's",
            "Leave out `--provider`, or choose `--backend onnxruntime`",
        )
    module = import_builder(name).import_library()
    gpu = read_driver().gpus[0]
    bundle = graph.bundle
    assert bundle is not None, "engines are a bundle's"

    def load(graph: str) -> trt.ICudaEngine:
        here = key_here(
            bundle, graph, name, compute_capability=gpu.compute_capability, gpu=gpu.name
        )
        found = find_engine(bundle, here)
        compatible = VERSION_COMPATIBLE in found.key.flags
        return load_engine(module, found.plan, version_compatible=compatible)

    engine = load(graph.name)
    cuda = Cuda(import_cudart())
    device = f"{name} {module.__version__} on {gpu.name}"

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

    with contextlib.ExitStack() as failed:
        failed.callback(cuda.close)
        session = EngineSession(engine, graph.spec, cuda, device, open_step)
        failed.pop_all()
    return session
