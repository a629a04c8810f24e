"""A made-up CUDA runtime and TensorRT engine, on the host's memory.

Only for what no library can show here: a refused enqueue, a full GPU, an engine of another GPU.
That engines calculate right is shown on a GPU, never by this.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from pitstop.runtime.bundle.manifest import GraphSpec

OK = 0
Compute = Callable[[dict[str, int]], None]


class MadeUpCudart:
    """The functions that `runtime.devices.cuda` calls; a captured graph is a list of calls."""

    cudaStreamNonBlocking = 1
    cudaEventDisableTiming = 2
    cudaMemcpyKind = SimpleNamespace(
        cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2, cudaMemcpyDeviceToDevice=3
    )
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self, *, room: int = 1 << 30, failing: dict[str, int] | None = None) -> None:
        self.room = room
        self.failing = failing or {}
        self.memory: dict[int, Any] = {}
        self.recording: list[Callable[[], None]] | None = None
        self.calls: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("cuda") and name[4:5].isupper() and name not in {"cudaGetErrorName"}:
            found = object.__getattribute__(self, name)
            if callable(found):
                self.calls.append(name)
                if code := self.failing.get(name):
                    return lambda *arguments: (code,)
            return found
        return object.__getattribute__(self, name)

    def cudaGetErrorName(self, error: int) -> tuple[int, bytes]:
        return OK, f"cudaErrorNumber{error}".encode()

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:
        return OK, 7

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        return (OK,)

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        return (OK,)

    def cudaMalloc(self, count: int) -> tuple[int, int]:
        if count > self.room:
            return 2, 0
        self.room -= count
        buffer = ctypes.create_string_buffer(b"\xff" * count, count)
        address = ctypes.addressof(buffer)
        self.memory[address] = buffer
        return OK, address

    cudaMallocHost = cudaMalloc

    def cudaFree(self, address: int) -> tuple[int]:
        self.room += len(self.memory.pop(address))
        return (OK,)

    cudaFreeHost = cudaFree

    def cudaMemsetAsync(self, address: int, value: int, count: int, stream: int) -> tuple[int]:
        ctypes.memset(address, value, count)
        return (OK,)

    def cudaMemcpyAsync(
        self, target: int, source: int, count: int, kind: int, stream: int
    ) -> tuple[int]:
        self.do(lambda: ctypes.memmove(target, source, count) and None)
        return (OK,)

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[int, int]:
        return OK, 9

    def cudaEventRecord(self, event: int, stream: int) -> tuple[int]:
        return (OK,)

    def cudaEventSynchronize(self, event: int) -> tuple[int]:
        return (OK,)

    def cudaEventDestroy(self, event: int) -> tuple[int]:
        return (OK,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[int]:
        self.recording = []
        return (OK,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, object]:
        graph, self.recording = self.recording, None
        return OK, graph

    def cudaGraphInstantiate(self, graph: object, flags: int) -> tuple[int, object]:
        return OK, graph

    def cudaGraphDestroy(self, graph: object) -> tuple[int]:
        return (OK,)

    def cudaGraphExecDestroy(self, graph: object) -> tuple[int]:
        return (OK,)

    def cudaGraphLaunch(self, graph: list[Callable[[], None]], stream: int) -> tuple[int]:
        for call in graph:
            call()
        return (OK,)

    def do(self, call: Callable[[], None]) -> None:
        """Do it, or put it into the graph that is being captured."""
        if self.recording is None:
            call()
        else:
            self.recording.append(call)


class MadeUpEngine:
    """An engine with the tensors of a graph; it refuses the calls that it is told to."""

    def __init__(
        self,
        spec: GraphSpec,
        cudart: MadeUpCudart,
        *,
        refuses: Callable[[int], bool] = lambda call: False,
        compute: Compute = lambda places: None,
        context: bool = True,
    ) -> None:
        self.spec, self.cudart, self.refuses = spec, cudart, refuses
        self.compute, self.context = compute, context
        self.tensors = {tensor.name: tensor.shape for tensor in (*spec.inputs, *spec.outputs)}
        self.num_io_tensors = len(self.tensors)
        self.places: dict[str, int] = {}
        self.calls = 0

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name]

    def create_execution_context(self) -> MadeUpEngine | None:
        return self if self.context else None

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.places[name] = address
        return name in self.tensors

    def execute_async_v3(self, stream: int) -> bool:
        self.calls += 1
        if self.refuses(self.calls):
            return False
        self.cudart.do(lambda: self.compute(self.places))
        return True


def made_up_tensorrt(complaint: str, version: str = "10.3.0") -> Any:
    """A TensorRT whose runtime refuses every plan and complains."""

    class ILogger:
        Severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=0, WARNING=2)

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, plan: bytes) -> None:
            self.logger.log(2, "a warning that is nobody's business")
            if complaint:
                self.logger.log(1, complaint)

    return SimpleNamespace(ILogger=ILogger, Runtime=Runtime, __version__=version)
