"""A TensorRT engine, loaded and run: TensorRT's and TensorRT-RTX's Python are alike.

Every tensor has one place on the device for as long as the engine is open, and every enqueue's
answer is looked at: one that was refused leaves the outputs of the call before.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import BackendUnavailable
from ..bundle.folder import GraphFile
from ..bundle.manifest import GraphSpec, Manifest, TensorSpec
from ..sampling.conditioner import Conditioner
from ..sampling.loop import Loop
from ..session import Array
from .cuda import Cuda, as_fed, no_memory

if TYPE_CHECKING:
    import tensorrt as trt

OpenStep = Callable[["EngineSession", Manifest, GraphFile, Conditioner | None], Loop | None]
"""Opens the loop of a denoiser, or None where the step has no engine."""

DTYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}  # the others are alike
FULL = ("out of memory", "outofmemory", "cudamalloc")
REBUILD = "Build it again on this machine with `pitstop build`"


def complaints_of(module: Any) -> trt.ILogger:
    """A logger of TensorRT that keeps the errors, in ``messages``, and prints nothing."""

    class Complaints(module.ILogger):  # type: ignore[misc]  # a class of the module that is given
        def __init__(self) -> None:
            super().__init__()
            self.messages: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in {module.ILogger.Severity.ERROR, module.ILogger.Severity.INTERNAL_ERROR}:
                self.messages.append(" ".join(message.split()))

    logger: trt.ILogger = Complaints()
    return logger


def load_engine(module: Any, plan: Path, *, version_compatible: bool = False) -> trt.ICudaEngine:
    """Load a plan.

    Args:
        module: ``tensorrt`` or ``tensorrt_rtx_bindings``.
        plan: What the builder wrote.
        version_compatible: Whether it was built so. Such a plan holds a runtime of its own, whose
            code runs when it is loaded.

    Raises:
        BackendUnavailable: It is truncated, of another GPU or version, or the memory is full.
    """
    logger = complaints_of(module)
    runtime: trt.Runtime = module.Runtime(logger)
    if version_compatible:
        runtime.engine_host_code_allowed = True
    engine: trt.ICudaEngine | None = runtime.deserialize_cuda_engine(plan.read_bytes())
    if engine is not None:
        return engine
    said = "; ".join(logger.messages) or "TensorRT does not say why"  # type: ignore[attr-defined]
    if any(word in said.lower() for word in FULL):
        raise no_memory(f"loading {plan} ({said})")
    raise BackendUnavailable(f"TensorRT cannot load {plan}: {said}", REBUILD)


def size_of(tensor: TensorSpec) -> int:
    """In bytes."""
    return math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize


class EngineSession:
    """An engine with its tensors on the device."""

    def __init__(
        self,
        engine: trt.ICudaEngine,
        spec: GraphSpec,
        cuda: Cuda,
        device: str,
        open_step: OpenStep | None = None,
    ) -> None:
        """Take a loaded engine, which has the inputs and outputs of ``spec``.

        Args:
            engine: Loaded.
            spec: Of the graph that it was built from.
            cuda: The stream that it runs in; a loop shares it.
            device: For people.
            open_step: For a loop beside it.
        """
        check_tensors(engine, spec)
        self._cuda, self._device, self._open_step = cuda, device, open_step
        self.spec = spec
        self._context: trt.IExecutionContext | None = open_context(engine, spec, cuda)
        cuda.before_close(self._drop_context)
        self.places: dict[str, int] = {}
        for tensor in (*spec.inputs, *spec.outputs):
            self.place(tensor.name, cuda.allocate(size_of(tensor)))

    @property
    def device(self) -> str:
        return self._device

    def place(self, name: str, address: int) -> None:
        """Say where a tensor lies."""
        assert self._context is not None, "this engine is closed"
        if not self._context.set_tensor_address(name, address):
            raise BackendUnavailable(f"The engine of {self.spec.path} takes no {name}", REBUILD)
        self.places[name] = address

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        for tensor in self.spec.inputs:
            self._cuda.upload(self.places[tensor.name], as_fed(feeds[tensor.name], tensor.dtype))
        self.enqueue()
        outputs = {
            tensor.name: np.empty(tensor.shape, dtype=tensor.dtype) for tensor in self.spec.outputs
        }
        for name, array in outputs.items():
            self._cuda.download(array, self.places[name])
        self._cuda.wait()
        return outputs

    def enqueue(self) -> None:
        """Tell the stream to run the engine, on what lies on the device then.

        Raises:
            BackendUnavailable: TensorRT refused; what the outputs hold is older.
        """
        assert self._context is not None, "this engine is closed"
        if not self._context.execute_async_v3(int(self._cuda.stream)):
            raise BackendUnavailable(
                f"TensorRT refused to run the engine of {self.spec.path}",
                f"{REBUILD}, or choose `--backend onnxruntime`",
            )

    def is_capturable(self) -> bool:
        """Whether `enqueue` may be captured, asked before a capture begins.

        TensorRT-RTX tells. TensorRT has nothing to ask: its capture is tried.
        """
        ask = getattr(self._context, "is_stream_capturable", None)
        return ask is None or bool(ask(int(self._cuda.stream)))

    def open_loop(
        self, manifest: Manifest, step: GraphFile, conditioner: Conditioner | None
    ) -> Loop | None:
        if self._open_step is None:
            return None
        return self._open_step(self, manifest, step, conditioner)

    def close(self) -> None:
        """Close the stream, and with it all sessions that share it."""
        self._cuda.close()

    def _drop_context(self) -> None:
        self._context = None


def open_context(engine: trt.ICudaEngine, spec: GraphSpec, cuda: Cuda) -> trt.IExecutionContext:
    """An execution context whose scratch memory is ours.

    TensorRT-RTX makes no other for an engine that was built for stream capture
    (`BuilderFlag.REQUIRE_USER_ALLOCATION`); on TensorRT it is the same call.

    Raises:
        BackendUnavailable: The memory is full.
    """
    strategies = sys.modules[type(engine).__module__].ExecutionContextAllocationStrategy
    context: trt.IExecutionContext | None = engine.create_execution_context(strategies.USER_MANAGED)
    if context is None:
        raise no_memory(f"{spec.path} has no room for its activations")
    size = engine.device_memory_size_v2
    context.set_device_memory(cuda.allocate(size), size)
    return context


def check_tensors(engine: trt.ICudaEngine, spec: GraphSpec) -> None:
    """Check that an engine has the tensors of its graph: name, direction, type, shape, place."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    found = {name: _describe(engine, name) for name in names}
    wanted = {
        tensor.name: f"{mode} {tensor.dtype} {tensor.shape} on the device"
        for mode, tensors in (("input", spec.inputs), ("output", spec.outputs))
        for tensor in tensors
    }
    if found != wanted:
        raise BackendUnavailable(
            f"The engine of {spec.path} has the tensors {found}, its graph {wanted}", REBUILD
        )


def _describe(engine: trt.ICudaEngine, name: str) -> str:
    """A tensor as ``input float32 (2, 4, 32, 32) on the device``."""
    mode = engine.get_tensor_mode(name).name.lower()
    dtype = engine.get_tensor_dtype(name).name
    location = engine.get_tensor_location(name).name.lower()
    shape = as_shape(engine.get_tensor_shape(name))
    return f"{mode} {DTYPES.get(dtype, dtype.lower())} {shape} on the {location}"


def as_shape(dims: trt.Dims) -> tuple[int, ...]:
    return tuple(dims[index] for index in range(len(dims)))
