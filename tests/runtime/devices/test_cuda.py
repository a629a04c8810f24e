"""CUDA's runtime, made up: what is copied, captured and given back, and in which order."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from bundle_helpers import one_line
from made_up_cuda import MadeUpCudart

from pitstop import BackendUnavailable
from pitstop.runtime.devices import cuda as cuda_file
from pitstop.runtime.devices.cuda import STAGE, Cuda, why_no_cudart
from pitstop.runtime.machine.driver import Driver

ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)


def read(cuda: Cuda, address: int, like: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    found = np.empty_like(like)
    cuda.download(found, address)
    cuda.wait()
    return found


def test_the_stream_is_its_own_and_its_events_take_no_times() -> None:
    cudart = MadeUpCudart()

    Cuda(cudart).mark()

    assert cudart.flags == {"stream": {1}, "event": {2}}


def test_new_memory_is_zero() -> None:
    cuda = Cuda(MadeUpCudart())

    assert not read(cuda, cuda.allocate(ROWS.nbytes), ROWS).any()


def test_an_array_may_change_after_its_upload() -> None:
    cuda = Cuda(MadeUpCudart())
    place, array = cuda.allocate(ROWS.nbytes), ROWS.copy()

    cuda.upload(place, array)
    array[:] = -1

    np.testing.assert_array_equal(read(cuda, place, ROWS), ROWS)


@pytest.mark.parametrize("size", [0, 1, STAGE - 1, STAGE, STAGE + 1, 3 * STAGE + 5])
def test_an_array_of_any_size_is_uploaded(size: int) -> None:
    cuda = Cuda(MadeUpCudart())
    array = np.random.default_rng(0).integers(0, 255, size, dtype=np.uint8)
    place = cuda.allocate(size)

    cuda.upload(place, array)

    np.testing.assert_array_equal(read(cuda, place, array), array)


def test_many_uploads_do_not_overwrite_what_the_device_has_not_read() -> None:
    cuda = Cuda(MadeUpCudart())
    arrays = [np.full(STAGE // 3, number, dtype=np.uint8) for number in range(20)]
    places = [cuda.allocate(array.nbytes) for array in arrays]

    for place, array in zip(places, arrays, strict=True):
        cuda.upload(place, array)

    for place, array in zip(places, arrays, strict=True):
        np.testing.assert_array_equal(read(cuda, place, array), array)


def test_small_uploads_wait_for_nothing() -> None:
    cudart = MadeUpCudart()
    cuda = Cuda(cudart)
    place = cuda.allocate(ROWS.nbytes)

    for _ in range(100):
        cuda.upload(place, ROWS)

    assert not {"cudaStreamSynchronize", "cudaEventSynchronize"} & set(cudart.calls)


def test_events_are_used_again() -> None:
    cudart = MadeUpCudart()
    cuda = Cuda(cudart)

    for _ in range(10):
        cuda.wait_for(cuda.mark())

    assert cudart.calls.count("cudaEventCreateWithFlags") == 1


def test_what_was_captured_runs_when_it_is_launched_and_not_before() -> None:
    cuda = Cuda(MadeUpCudart())
    source, target = cuda.allocate(ROWS.nbytes), cuda.allocate(ROWS.nbytes)
    cuda.upload(source, ROWS)

    graph = cuda.capture(lambda: cuda.move(target, source, ROWS.nbytes))

    assert not read(cuda, target, ROWS).any()
    cuda.launch(graph)
    np.testing.assert_array_equal(read(cuda, target, ROWS), ROWS)


def refuse() -> None:
    raise BackendUnavailable("TensorRT refused", "Remedy")


@pytest.mark.parametrize(
    ("failing", "work"),
    [
        ("cudaStreamBeginCapture", lambda: None),
        ("cudaStreamEndCapture", lambda: None),
        ("cudaGraphInstantiate", lambda: None),
        ("", refuse),
    ],
)
def test_what_cannot_be_captured_is_no_graph_and_the_stream_goes_on(
    failing: str, work: Callable[[], None]
) -> None:
    cudart = MadeUpCudart(failing={failing: 901})
    cuda = Cuda(cudart)
    place = cuda.allocate(ROWS.nbytes)

    assert cuda.capture(work) is None

    assert cudart.recording is None
    assert cudart.calls[-1] == "cudaGetLastError"  # the next call must not find this one's
    cuda.upload(place, ROWS)
    np.testing.assert_array_equal(read(cuda, place, ROWS), ROWS)
    cuda.close()
    assert cudart.is_empty()


def test_a_wait_in_a_capture_spoils_it_and_no_more() -> None:
    cuda = Cuda(MadeUpCudart())

    assert cuda.capture(cuda.wait) is None

    assert cuda.capture(lambda: None) is not None


def test_ctrl_c_in_a_capture_ends_it() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    cudart = MadeUpCudart()
    cuda = Cuda(cudart)

    with pytest.raises(KeyboardInterrupt):
        cuda.capture(interrupt)

    assert cudart.recording is None
    assert cudart.held["graph"] == []


@pytest.mark.parametrize("is_on", [True, False])
def test_python_collects_before_a_capture_and_not_in_it(is_on: bool) -> None:
    class Garbage:
        def __del__(self) -> None:
            freed.append(cudart.recording is not None)

    freed: list[bool] = []
    cudart = MadeUpCudart()
    cycle: list[Any] = [Garbage()]
    cycle.append(cycle)
    collects: list[bool] = []
    was_on = gc.isenabled()
    try:
        (gc.enable if is_on else gc.disable)()
        del cycle
        Cuda(cudart).capture(lambda: collects.append(gc.isenabled()))
        assert gc.isenabled() == is_on
    finally:
        (gc.enable if was_on else gc.disable)()

    assert freed == [False]
    assert collects == [False]


def everything(cudart: MadeUpCudart) -> Cuda:
    """One of each thing that must be given back, and work under way."""
    cuda = Cuda(cudart)
    place = cuda.allocate(ROWS.nbytes)
    cuda.pin(8)
    cuda.mark()  # and nobody waits for it
    graph = cuda.capture(lambda: cuda.clear(place, ROWS.nbytes))
    cuda.upload(place, ROWS)
    cuda.launch(graph)
    return cuda


def test_closing_waits_first_and_gives_everything_back_once() -> None:
    cudart = MadeUpCudart()
    cuda = everything(cudart)
    cudart.calls.clear()

    cuda.close()
    cuda.close()

    assert cudart.is_empty()
    assert cudart.calls[0] == "cudaStreamSynchronize"
    assert cudart.calls[-1] == "cudaStreamDestroy"
    assert cudart.calls.count("cudaStreamDestroy") == 1


@pytest.mark.parametrize("failing", ["cudaStreamSynchronize", "cudaEventDestroy"])
def test_one_failure_keeps_nothing_else_from_being_given_back(failing: str) -> None:
    cudart = MadeUpCudart()
    cuda = everything(cudart)
    cudart.failing = {failing: 700}

    with pytest.raises(BackendUnavailable, match=f"CUDA's {failing} failed"):
        cuda.close()

    assert cudart.memory == {}
    assert cudart.held["ready"] == cudart.held["stream"] == []


def test_what_is_to_be_done_before_closing_finds_the_stream_done_and_the_memory_there() -> None:
    cudart = MadeUpCudart()
    cuda = everything(cudart)
    found: list[bool] = []
    cuda.before_close(lambda: found.append(not cudart.waiting and bool(cudart.memory)))

    cuda.close()

    assert found == [True]


def test_memory_can_be_given_back_alone_when_the_stream_is_done_with_it() -> None:
    cudart = MadeUpCudart()
    cuda = Cuda(cudart)
    first, second = cuda.allocate(8), cuda.allocate(8)

    cuda.free(first)

    assert list(cudart.memory) == [second]
    cuda.close()
    assert cudart.is_empty()


@pytest.mark.parametrize(
    ("driver", "runtime", "why"),
    [
        ("12.4", 13050, "is of CUDA 13.5, and the driver runs CUDA up to 12.4 (pip install "),
        ("12.4", 12090, None),  # a minor version may be newer than the driver's
        ("13.0", 12090, None),
        (None, 13050, None),  # no driver at all: `why_no_gpu` tells of it
    ],
)
def test_a_driver_that_is_too_old_for_the_runtime_is_told_with_what_fits(
    monkeypatch: pytest.MonkeyPatch, driver: str | None, runtime: int, why: str | None
) -> None:
    cudart = MadeUpCudart()
    monkeypatch.setattr(cudart, "cudaRuntimeGetVersion", lambda: (0, runtime))
    monkeypatch.setattr(cuda_file, "import_cudart", lambda: cudart)
    monkeypatch.setattr(cuda_file, "read_driver", lambda: Driver(driver, (), None))

    told = why_no_cudart()

    assert (told is None) == (why is None)
    assert why is None or (why in str(told) and "'cuda-bindings==12.*'" in str(told))


def test_a_missing_cuda_python_is_told_with_the_version_that_fits_the_driver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing() -> None:
        raise ImportError("No module named 'cuda'")

    monkeypatch.setattr(cuda_file, "import_cudart", missing)
    monkeypatch.setattr(cuda_file, "read_driver", lambda: Driver("12.6", (), None))

    assert "(pip install 'cuda-bindings==12.*')" in str(why_no_cudart())


def test_a_gpu_that_is_full_is_told() -> None:
    with pytest.raises(BackendUnavailable) as told:
        Cuda(MadeUpCudart(room=100)).allocate(101)

    assert "The GPU's memory is not enough: `cudaMalloc` was refused" in one_line(told.value)
