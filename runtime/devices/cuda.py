"""CUDA's runtime as the TensorRT backends need it: one stream, memory, copies, a captured graph.

Over NVIDIA's package cuda-bindings, whose functions give an error code beside what they return;
here a code that is not 0 is an error that says what was being done.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ... import BackendUnavailable
from ..machine.driver import cuda_version, read_driver
from ..session import Array

OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation
STAGE = 4 << 20  # bytes, of each half of the pinned memory that uploads go through


def why_no_cudart() -> str | None:
    """Say why CUDA's runtime cannot be called from Python, or None where it can."""
    driver = read_driver().cuda_version
    fitting = f"'cuda-bindings=={driver.partition('.')[0]}.*'" if driver else "cuda-bindings"
    try:
        cudart = import_cudart()
    except ImportError:
        return f"the package cuda-bindings is not installed (pip install {fitting})"
    _, number = cudart.cudaRuntimeGetVersion()
    if driver is not None and is_too_old(driver, cuda_version(number)):
        return (
            f"cuda-bindings is of CUDA {cuda_version(number)}, and the driver runs CUDA up to "
            f"{driver} (pip install {fitting})"
        )
    return None


def is_too_old(driver: str, runtime: str) -> bool:
    """Whether a driver answers a CUDA with 35, cudaErrorInsufficientDriver.

    It runs every minor version of its own major one ("CUDA Compatibility", minor versions).
    """
    return int(driver.partition(".")[0]) < int(runtime.partition(".")[0])


def import_cudart() -> Any:
    """The module, wherever this release of NVIDIA's package has it."""
    try:
        from cuda.bindings import runtime
    except ImportError:
        from cuda import cudart as runtime  # before 12.6
    return runtime


class Cuda:
    """One stream of the first GPU, and what was taken for it.

    The stream is its own: the default one would wait for everybody else's, and cannot be captured.
    """

    def __init__(self, cudart: Any) -> None:
        self._cudart = cudart
        self._taken: list[tuple[str, Any]] = []  # the call that gives it back, and what it is
        self._before_close: list[Callable[[], None]] = []
        self._idle_events: list[Any] = []
        self._stage: _Stage | None = None
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
        self._taken.append(("cudaFree", address))
        self.clear(address, count)
        return address

    def free(self, address: int) -> None:
        """Give device memory back when the stream has done what it was told."""
        self.wait()
        self._taken.remove(("cudaFree", address))
        self.call("cudaFree", address)

    def pin(self, count: int) -> int:
        """Take host memory that the device copies from while the host goes on: its address."""
        address = int(self.call("cudaMallocHost", max(count, 1)))
        self._taken.append(("cudaFreeHost", address))
        return address

    def upload(self, address: int, array: Array) -> None:
        """Copy an array to the device, in the stream's order; the array may change after it.

        It goes through pinned memory. Of pageable memory, CUDA only says that the call might have
        read all of it when it returns ("API synchronization behavior").
        """
        if self._stage is None:
            self._stage = _Stage(self)
        for start in range(0, array.nbytes, STAGE):
            count = min(STAGE, array.nbytes - start)
            pinned = self._stage.room(count)
            ctypes.memmove(pinned, array.ctypes.data + start, count)
            self._copy_in(address + start, pinned, count)

    def upload_pinned(self, address: int, pinned: int, array: Array) -> None:
        """Copy an array to the device through pinned memory of the caller's."""
        ctypes.memmove(pinned, array.ctypes.data, array.nbytes)
        self._copy_in(address, pinned, array.nbytes)

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
        """An event that has happened when the stream comes to it; `wait_for` takes it back."""
        event = self._idle_events.pop() if self._idle_events else self._new_event()
        self.call("cudaEventRecord", event, self.stream)
        return event

    def wait_for(self, event: Any) -> None:
        self.call("cudaEventSynchronize", event)
        self._idle_events.append(event)

    def capture(self, work: Callable[[], None]) -> Any | None:
        """Record what ``work`` tells the stream, as one graph; nothing of it runs.

        Python's collector is kept out: what it frees of other engines must not be freed in a
        capture.

        Returns:
            The graph for `launch`, or None where ``work`` cannot be captured. Then the stream is as
            it was, and can be told to do the work itself.
        """
        gc.collect()
        try:
            with _without_collector():
                graph = self._record(work)
            return self._make_ready(graph)
        except BackendUnavailable:
            self._cudart.cudaGetLastError()  # it would be taken for the next call's
            return None

    def launch(self, graph: Any) -> None:
        self.call("cudaGraphLaunch", graph, self.stream)

    def before_close(self, last: Callable[[], None]) -> None:
        """Have something done when the stream is done and its memory is still there."""
        self._before_close.append(last)

    def close(self) -> None:
        """Give everything back when the stream is done; a second time does nothing.

        All of it is tried, whatever fails; the last failure is raised.
        """
        if self.stream is None:
            return
        with contextlib.ExitStack() as closing:  # the last that is put on it goes first
            closing.callback(self.call, "cudaStreamDestroy", self.stream)
            for give_back, what in self._taken:
                closing.callback(self.call, give_back, what)
            for last in self._before_close:
                closing.callback(last)
            closing.callback(self.call, "cudaStreamSynchronize", self.stream)
            self._taken, self._before_close, self._idle_events = [], [], []
            self.stream = self._stage = None

    def _new_event(self) -> Any:
        event = self.call("cudaEventCreateWithFlags", self._cudart.cudaEventDisableTiming)
        self._taken.append(("cudaEventDestroy", event))
        return event

    def _record(self, work: Callable[[], None]) -> Any:
        """What ``work`` tells the stream; however it ends, the stream captures nothing after it.

        The mode is thread-local: a global one would break what other threads do with CUDA.
        """
        modes = self._cudart.cudaStreamCaptureMode
        self.call("cudaStreamBeginCapture", self.stream, modes.cudaStreamCaptureModeThreadLocal)
        try:
            work()
        except BaseException:
            error, half = self._cudart.cudaStreamEndCapture(self.stream)
            if not int(error):
                self._cudart.cudaGraphDestroy(half)
            raise
        return self.call("cudaStreamEndCapture", self.stream)

    def _make_ready(self, graph: Any) -> Any:
        try:
            ready = self.call("cudaGraphInstantiate", graph, 0)
        finally:
            self.call("cudaGraphDestroy", graph)
        self._taken.append(("cudaGraphExecDestroy", ready))
        return ready

    def _copy_in(self, address: int, pinned: int, count: int) -> None:
        self._copy(address, pinned, count, self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice)

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


class _Stage:
    """Pinned memory in two halves: the host fills one while the device reads the other."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._halves = [cuda.pin(STAGE), cuda.pin(STAGE)]
        self._filled = 0  # bytes of the first
        self._read: Any = None  # happens when the second has been read

    def room(self, count: int) -> int:
        """The address of ``count`` bytes that no copy under way reads."""
        if self._filled + count > STAGE:
            self._turn()
        place = self._halves[0] + self._filled
        self._filled += count
        return place

    def _turn(self) -> None:
        read, self._read = self._read, self._cuda.mark()
        if read is not None:
            self._cuda.wait_for(read)
        self._halves.reverse()
        self._filled = 0


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


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
