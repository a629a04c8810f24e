"""A made-up CUDA runtime and TensorRT engine, on the host's memory.

Only for what no library can show here: a refused enqueue, a full GPU, an engine of another GPU.
That engines calculate right is shown on a GPU, never by this. The stream does nothing before
somebody waits for it, as a GPU that is far behind: what was to be copied may be gone by then.
"""

from __future__ import annotations

import ctypes
import itertools
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from pitstop.runtime.bundle.manifest import GraphSpec

OK = 0
Compute = Callable[[dict[str, int]], None]


class MadeUpCudart:
    """The functions that `runtime.devices.cuda` calls; a captured graph is a list of calls.

    Attributes:
        room: Bytes of memory that are left.
        failing: The error code that a function answers with, by its name.
        calls: The functions that were called, and ``context dropped``.
        held: What must be given back: memory, events, graphs and streams, by their kind.
        flags: What streams and events were made with.
    """

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
        self.pinned: set[int] = set()
        self.held: dict[str, list[Any]] = {"stream": [], "event": [], "graph": [], "ready": []}
        self.flags: dict[str, set[int]] = {"stream": set(), "event": set()}
        self.waiting: list[Callable[[], None] | int] = []  # calls, and events between them
        self.recording: list[Callable[[], None]] | None = None
        self.invalid = False
        self.calls: list[str] = []
        self.numbers = itertools.count(1)

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("cuda") and name[4:5].isupper() and name not in {"cudaGetErrorName"}:
            found = object.__getattribute__(self, name)
            if callable(found):
                self.calls.append(name)
                if code := self.failing.get(name):
                    return lambda *arguments: self.fail(name, code)
            return found
        return object.__getattribute__(self, name)

    def fail(self, name: str, code: int) -> tuple[int, None]:
        if name == "cudaStreamEndCapture":  # it ends all the same
            self.recording = None
        if name == "cudaStreamSynchronize":  # what was under way is lost
            self.waiting.clear()
        return code, None

    def cudaGetErrorName(self, error: int) -> tuple[int, bytes]:
        return OK, f"cudaErrorNumber{error}".encode()

    def cudaGetLastError(self) -> tuple[int]:
        return (OK,)

    def cudaRuntimeGetVersion(self) -> tuple[int, int]:
        return OK, 13000

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:
        self.flags["stream"].add(flags)
        return self.make("stream")

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        if self.recording is not None:
            self.invalid = True
            return (900,)  # cudaErrorStreamCaptureUnsupported
        self.catch_up(len(self.waiting))
        return (OK,)

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        return self.give_back("stream", stream)

    def cudaMalloc(self, count: int) -> tuple[int, int]:
        if count > self.room:
            return 2, 0
        self.room -= count
        buffer = ctypes.create_string_buffer(b"\xff" * count, count)
        address = ctypes.addressof(buffer)
        self.memory[address] = buffer
        return OK, address

    def cudaMallocHost(self, count: int) -> tuple[int, int]:
        code, address = self.cudaMalloc(count)
        self.pinned.add(address)
        return code, address

    def cudaFree(self, address: int) -> tuple[int]:
        assert not self.waiting, "memory is freed before the stream has done what it was told"
        self.room += len(self.memory.pop(address))
        return (OK,)

    def cudaFreeHost(self, address: int) -> tuple[int]:
        self.pinned.remove(address)
        return self.cudaFree(address)

    def cudaMemsetAsync(self, address: int, value: int, count: int, stream: int) -> tuple[int]:
        self.do(lambda: ctypes.memset(address, value, count) and None)
        return (OK,)

    def cudaMemcpyAsync(
        self, target: int, source: int, count: int, kind: int, stream: int
    ) -> tuple[int]:
        places = (self.is_on_device(source), self.is_on_device(target))
        assert places == {1: (False, True), 2: (True, False), 3: (True, True)}[kind]
        self.do(lambda: ctypes.memmove(target, source, count) and None)
        return (OK,)

    def is_on_device(self, address: int) -> bool:
        return any(
            start <= address < start + len(buffer) and start not in self.pinned
            for start, buffer in self.memory.items()
        )

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[int, int]:
        self.flags["event"].add(flags)
        return self.make("event")

    def cudaEventRecord(self, event: int, stream: int) -> tuple[int]:
        self.waiting = [waiting for waiting in self.waiting if waiting != event]
        self.waiting.append(event)
        return (OK,)

    def cudaEventSynchronize(self, event: int) -> tuple[int]:
        if event in self.waiting:
            self.catch_up(self.waiting.index(event) + 1)
        return (OK,)

    def cudaEventDestroy(self, event: int) -> tuple[int]:
        return self.give_back("event", event)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[int]:
        self.recording, self.invalid = [], False
        return (OK,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, int | None]:
        graph, self.recording = self.recording, None
        if self.invalid:
            return 901, None  # cudaErrorStreamCaptureInvalidated
        return self.make("graph", graph)

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[int, int]:
        return self.make("ready", graph.what)

    def cudaGraphDestroy(self, graph: int) -> tuple[int]:
        return self.give_back("graph", graph)

    def cudaGraphExecDestroy(self, graph: int) -> tuple[int]:
        return self.give_back("ready", graph)

    def cudaGraphLaunch(self, graph: Any, stream: int) -> tuple[int]:
        for call in graph.what:
            self.do(call)
        return (OK,)

    def do(self, call: Callable[[], None]) -> None:
        """Put it into the graph that is being captured, or behind what the stream has to do."""
        (self.waiting if self.recording is None else self.recording).append(call)

    def catch_up(self, count: int) -> None:
        """Do the first of what the stream has to do."""
        for waiting in self.waiting[:count]:
            if callable(waiting):
                waiting()
        del self.waiting[:count]

    def make(self, kind: str, what: Any = None) -> tuple[int, Any]:
        made = next(self.numbers) if what is None else SimpleNamespace(what=what)
        self.held[kind].append(made)
        return OK, made

    def give_back(self, kind: str, what: Any) -> tuple[int]:
        self.held[kind].remove(what)
        return (OK,)

    def is_empty(self) -> bool:
        """Whether all was given back."""
        return not self.memory and not any(self.held.values())


class ExecutionContextAllocationStrategy:
    """Of TensorRT: an engine's module has it."""

    STATIC, USER_MANAGED = 0, 2


class MadeUpEngine:
    """An engine with the tensors of a graph; it refuses the calls that it is told to.

    Attributes:
        changes: What is other than in the graph, by tensor: ``dtype``, ``mode`` or ``location``.
        capturable: What TensorRT-RTX answers; None is TensorRT, which has no such question.
        context: Whether there is room for one.
    """

    device_memory_size_v2 = 1000

    def __init__(
        self,
        spec: GraphSpec,
        cudart: MadeUpCudart,
        *,
        refuses: Callable[[int], bool] = lambda call: False,
        compute: Compute = lambda places: None,
        context: bool = True,
        capturable: bool | None = None,
        changes: dict[str, dict[str, str]] | None = None,
    ) -> None:
        self.spec, self.cudart, self.refuses = spec, cudart, refuses
        self.compute, self.context, self.capturable = compute, context, capturable
        self.changes = changes or {}
        self.tensors = {tensor.name: tensor for tensor in (*spec.inputs, *spec.outputs)}
        self.num_io_tensors = len(self.tensors)
        self.places: dict[str, int] = {}
        self.calls = 0

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def get_tensor_dtype(self, name: str) -> SimpleNamespace:
        dtype = self.tensors[name].dtype
        names = {"float32": "FLOAT", "float16": "HALF"}
        return self.tell(name, "dtype", names.get(dtype, dtype.upper()))

    def get_tensor_mode(self, name: str) -> SimpleNamespace:
        return self.tell(
            name, "mode", "INPUT" if self.tensors[name] in self.spec.inputs else "OUTPUT"
        )

    def get_tensor_location(self, name: str) -> SimpleNamespace:
        return self.tell(name, "location", "DEVICE")

    def tell(self, tensor: str, what: str, answer: str) -> SimpleNamespace:
        return SimpleNamespace(name=self.changes.get(tensor, {}).get(what, answer))

    def create_execution_context(self, strategy: int = 0) -> MadeUpContext | None:
        """As of an engine that was built with ``REQUIRE_USER_ALLOCATION``."""
        if strategy != ExecutionContextAllocationStrategy.USER_MANAGED or not self.context:
            return None
        context = MadeUpContext(self)
        weakref.finalize(context, self.cudart.calls.append, "context dropped")
        if self.capturable is not None:
            context.is_stream_capturable = lambda stream: self.capturable  # type: ignore[attr-defined]
        return context


class MadeUpContext:
    """What runs an engine, once it has memory."""

    def __init__(self, engine: MadeUpEngine) -> None:
        self.engine, self.memory = engine, 0

    def set_device_memory(self, address: int, size: int) -> None:
        assert len(self.engine.cudart.memory[address]) >= size
        assert size >= self.engine.device_memory_size_v2
        self.memory = address

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.engine.places[name] = address
        return name in self.engine.tensors

    def execute_async_v3(self, stream: int) -> bool:
        assert self.memory, "the engine was run without memory"
        engine = self.engine
        engine.calls += 1
        if engine.refuses(engine.calls):
            return False
        engine.cudart.do(lambda: engine.compute(engine.places))
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
