"""CUDA's runtime as the TensorRT backends need it: one stream, memory, copies, a captured graph.

Over NVIDIA's package cuda-bindings, whose functions give an error code beside what they return;
here a code that is not 0 is an error that says what was being done.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ... import BackendUnavailable
from ..session import Array

OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation


def why_no_cudart() -> str | None:
    """Say why CUDA's runtime cannot be called from Python, or None where it can."""
    try:
        import_cudart()
    except ImportError:
        return "the package cuda-bindings is not installed (pip install cuda-bindings)"
    return None


def import_cudart() -> Any:
    """The module, wherever this release of NVIDIA's package has it."""
    try:
        from cuda.bindings import runtime
    except ImportError:
        from cuda import cudart as runtime  # before 12.6
    return runtime


class Cuda:
    """One stream of the first GPU, and the memory that was taken for it.

    The stream is its own: the default one would wait for everybody else's, and cannot be captured.
    """

    def __init__(self, cudart: Any) -> None:
        self._cudart = cudart
        self._memory: list[int] = []
        self._pinned: list[int] = []
        self._graphs: list[Any] = []
        self.stream = self.call("cudaStreamCreateWithFlags", cudart.cudaStreamNonBlocking)

    def call(self, name: str, *arguments: object) -> Any:
        """Call a function of the runtime: what it returns, without its error code.

        Raises:
            BackendUnavailable: It failed.
        """
        error, *values = getattr(self._cudart, name)(*arguments)
        if int(error):
            raise self._failure(name, error)
        return values[0] if len(values) == 1 else tuple(values)

    def allocate(self, count: int) -> int:
        """Take device memory, in bytes, filled with zeros: its address."""
        address = int(self.call("cudaMalloc", max(count, 1)))
        self._memory.append(address)
        self.call("cudaMemsetAsync", address, 0, count, self.stream)
        return address

    def free(self, address: int) -> None:
        """Give device memory back, after what the stream does with it."""
        self._memory.remove(address)
        self.call("cudaFree", address)

    def pin(self, count: int) -> int:
        """Take host memory that the device copies from while the host goes on: its address."""
        address = int(self.call("cudaMallocHost", max(count, 1)))
        self._pinned.append(address)
        return address

    def upload(self, address: int, array: Array) -> None:
        """Copy an array to the device, in the stream's order; the array may change after it."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(address, array.ctypes.data, array.nbytes, kind)

    def upload_pinned(self, address: int, pinned: int, array: Array) -> None:
        """Copy an array to the device through pinned memory, and do not wait for it."""
        ctypes.memmove(pinned, array.ctypes.data, array.nbytes)
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(address, pinned, array.nbytes, kind)

    def download(self, array: Array, address: int) -> None:
        """Copy from the device into an array; it is there after `wait`."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(array.ctypes.data, address, array.nbytes, kind)

    def move(self, target: int, source: int, count: int) -> None:
        """Copy bytes from one place on the device to another."""
        self._copy(target, source, count, self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToDevice)

    def clear(self, address: int, count: int) -> None:
        self.call("cudaMemsetAsync", address, 0, count, self.stream)

    def wait(self) -> None:
        """Wait until the stream has done all that it was told."""
        self.call("cudaStreamSynchronize", self.stream)

    def mark(self) -> Any:
        """An event that has happened when the stream comes to it."""
        flags = self._cudart.cudaEventDisableTiming
        event = self.call("cudaEventCreateWithFlags", flags)
        self.call("cudaEventRecord", event, self.stream)
        return event

    def wait_for(self, event: Any) -> None:
        self.call("cudaEventSynchronize", event)
        self.call("cudaEventDestroy", event)

    def capture(self, work: Callable[[], None]) -> Any:
        """Record what ``work`` tells the stream, as one graph; nothing of it runs.

        The mode is thread-local: a global one would break what other threads do with CUDA.
        """
        modes = self._cudart.cudaStreamCaptureMode
        self.call("cudaStreamBeginCapture", self.stream, modes.cudaStreamCaptureModeThreadLocal)
        with self._abandoned_on_error():
            work()
        graph = self.call("cudaStreamEndCapture", self.stream)
        ready = self.call("cudaGraphInstantiate", graph, 0)
        self.call("cudaGraphDestroy", graph)
        self._graphs.append(ready)
        return ready

    @contextlib.contextmanager
    def _abandoned_on_error(self) -> Iterator[None]:
        """End a capture that failed halfway, so that the stream can be used again."""
        try:
            yield
        except BaseException:
            self._cudart.cudaStreamEndCapture(self.stream)
            raise

    def launch(self, graph: Any) -> None:
        self.call("cudaGraphLaunch", graph, self.stream)

    def close(self) -> None:
        """Give everything back; a second time does nothing."""
        if self.stream is None:
            return
        self.wait()
        for graph in self._graphs:
            self.call("cudaGraphExecDestroy", graph)
        for address in self._memory:
            self.call("cudaFree", address)
        for address in self._pinned:
            self.call("cudaFreeHost", address)
        self.call("cudaStreamDestroy", self.stream)
        self._memory, self._pinned, self._graphs, self.stream = [], [], [], None

    def _copy(self, target: int, source: int, count: int, kind: Any) -> None:
        self.call("cudaMemcpyAsync", target, source, count, kind, self.stream)

    def _failure(self, name: str, error: Any) -> BackendUnavailable:
        if int(error) == OUT_OF_MEMORY:
            return no_memory(f"`{name}` was refused")
        _, said = self._cudart.cudaGetErrorName(error)
        words = said.decode() if isinstance(said, bytes) else str(said)
        return BackendUnavailable(
            f"CUDA's {name} failed: {words}",
            "Run `pitstop doctor`; `--backend onnxruntime` runs without the engines",
        )


def no_memory(what: str) -> BackendUnavailable:
    """The error for a GPU that is full."""
    return BackendUnavailable(
        f"The GPU's memory is not enough: {what}",
        "Close what else uses the GPU, or take a smaller `--precision`, or export with a smaller "
        "`--batch`",
    )


def as_fed(array: Array, dtype: str) -> Array:
    """An array as it lies on the device: of the graph's type, without gaps."""
    return np.ascontiguousarray(array, dtype=dtype)
