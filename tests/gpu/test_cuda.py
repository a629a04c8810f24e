"""What `Cuda` promises, on a GPU: copies, captures, and what is given back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from pitstop import BackendUnavailable
from pitstop.runtime.devices.cuda import STAGE, Cuda, import_cudart, why_no_cudart

pytestmark = pytest.mark.gpu

ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)
BUSY = 256 << 20  # bytes, whose copies keep a GPU busy for a while


@pytest.fixture
def cuda() -> Iterator[Cuda]:
    if why := why_no_cudart():
        pytest.skip(why)
    opened = Cuda(import_cudart())
    yield opened
    opened.close()


def read(cuda: Cuda, address: int, like: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    found = np.empty_like(like)
    cuda.download(found, address)
    cuda.wait()
    return found


def keep_busy(cuda: Cuda) -> None:
    """Give the stream more to do than the host needs to go on."""
    first, second = cuda.allocate(BUSY), cuda.allocate(BUSY)
    for _ in range(20):
        cuda.move(second, first, BUSY)


def test_new_memory_is_zero(cuda: Cuda) -> None:
    assert not read(cuda, cuda.allocate(ROWS.nbytes), ROWS).any()


@pytest.mark.parametrize("size", [0, 1, STAGE - 1, STAGE, STAGE + 1, 3 * STAGE + 5])
def test_an_array_of_any_size_comes_back_as_it_went(cuda: Cuda, size: int) -> None:
    array = np.random.default_rng(0).integers(0, 255, size, dtype=np.uint8)
    place = cuda.allocate(size)

    cuda.upload(place, array)

    np.testing.assert_array_equal(read(cuda, place, array), array)


def test_an_array_may_change_after_its_upload_while_the_gpu_is_busy(cuda: Cuda) -> None:
    place, array = cuda.allocate(ROWS.nbytes), ROWS.copy()
    keep_busy(cuda)

    cuda.upload(place, array)
    array[:] = -1

    np.testing.assert_array_equal(read(cuda, place, ROWS), ROWS)


def test_many_uploads_do_not_overwrite_what_the_gpu_has_not_read(cuda: Cuda) -> None:
    arrays = [np.full(STAGE // 3, number, dtype=np.uint8) for number in range(20)]
    places = [cuda.allocate(array.nbytes) for array in arrays]
    keep_busy(cuda)

    for place, array in zip(places, arrays, strict=True):
        cuda.upload(place, array)

    for place, array in zip(places, arrays, strict=True):
        np.testing.assert_array_equal(read(cuda, place, array), array)


def test_the_stream_keeps_its_order(cuda: Cuda) -> None:
    first, second = cuda.allocate(ROWS.nbytes), cuda.allocate(ROWS.nbytes)

    cuda.upload(first, ROWS)
    cuda.move(second, first, ROWS.nbytes)
    cuda.clear(first, ROWS.nbytes)

    np.testing.assert_array_equal(read(cuda, second, ROWS), ROWS)
    assert not read(cuda, first, ROWS).any()


def test_what_was_captured_runs_when_it_is_launched_on_what_lies_there_then(cuda: Cuda) -> None:
    source, target = cuda.allocate(ROWS.nbytes), cuda.allocate(ROWS.nbytes)

    graph = cuda.capture(lambda: cuda.move(target, source, ROWS.nbytes))

    assert graph is not None
    assert not read(cuda, target, ROWS).any()
    for factor in (1, 2):
        cuda.upload(source, factor * ROWS)
        cuda.launch(graph)
        np.testing.assert_array_equal(read(cuda, target, ROWS), factor * ROWS)


def test_what_cannot_be_captured_is_no_graph_and_the_stream_goes_on(cuda: Cuda) -> None:
    place = cuda.allocate(ROWS.nbytes)

    assert cuda.capture(cuda.wait) is None  # a wait is not allowed in a capture

    cuda.upload(place, ROWS)
    np.testing.assert_array_equal(read(cuda, place, ROWS), ROWS)
    assert cuda.capture(lambda: cuda.clear(place, ROWS.nbytes)) is not None


def test_work_that_is_refused_in_a_capture_is_no_graph_and_the_stream_goes_on(cuda: Cuda) -> None:
    def refuse() -> None:
        cuda.clear(place, ROWS.nbytes)
        raise BackendUnavailable("refused", "Remedy")

    place = cuda.allocate(ROWS.nbytes)
    cuda.upload(place, ROWS)

    assert cuda.capture(refuse) is None

    np.testing.assert_array_equal(read(cuda, place, ROWS), ROWS)


def test_an_event_has_happened_when_what_was_told_before_it_is_done(cuda: Cuda) -> None:
    place, found = cuda.allocate(ROWS.nbytes), np.empty_like(ROWS)
    keep_busy(cuda)
    cuda.upload(place, ROWS)
    cuda.download(found, place)

    cuda.wait_for(cuda.mark())

    np.testing.assert_array_equal(found, ROWS)


def test_memory_is_given_back(cuda: Cuda) -> None:
    def free() -> int:
        return int(cuda.call("cudaMemGetInfo")[0])

    before = free()
    other = Cuda(import_cudart())
    other.free(other.allocate(BUSY))
    other.allocate(BUSY)
    other.wait()
    held = before - free()
    other.close()
    other.close()

    assert BUSY <= held < 2 * BUSY
    assert before - free() < BUSY // 2


def test_more_memory_than_there_is_is_told(cuda: Cuda) -> None:
    with pytest.raises(BackendUnavailable, match="The GPU's memory is not enough"):
        cuda.allocate(1 << 45)

    assert not read(cuda, cuda.allocate(ROWS.nbytes), ROWS).any()
