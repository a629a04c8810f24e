"""An engine's session on made-up CUDA memory: what is checked, asked and given back."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from bundle_helpers import one_line, toy_manifest, zeros
from made_up_cuda import MadeUpCudart, MadeUpEngine

from pitstop import BackendUnavailable
from pitstop.runtime.devices.cuda import Cuda
from pitstop.runtime.devices.engine_session import EngineSession

SPEC = toy_manifest(batch=2).denoiser("fp32")


def session_of(cudart: MadeUpCudart, **options: Any) -> EngineSession:
    engine: Any = MadeUpEngine(SPEC, cudart, **options)
    return EngineSession(engine, SPEC, Cuda(cudart), "test")


@pytest.mark.parametrize(
    ("tensor", "what", "answer", "said"),
    [
        ("latent", "dtype", "HALF", "input float16 (2, 1, 8, 8) on the device"),
        ("label", "dtype", "INT32", "input int32 (2,) on the device"),
        ("timestep", "location", "HOST", "input float32 (2,) on the host"),
        ("prediction", "mode", "INPUT", "input float32 (2, 1, 8, 8) on the device"),
        ("latent", "dtype", "BF16", "input bfloat16"),
        ("latent", "dtype", "FP8", "input fp8"),
    ],
)
def test_an_engine_whose_tensors_are_not_its_graphs_is_refused(
    tensor: str, what: str, answer: str, said: str
) -> None:
    with pytest.raises(BackendUnavailable) as told:
        session_of(MadeUpCudart(), changes={tensor: {what: answer}})

    assert f"'{tensor}': '{said}" in one_line(told.value)
    assert "pitstop build" in told.value.remedy


@pytest.mark.parametrize(("capturable", "answer"), [(True, True), (False, False), (None, True)])
def test_an_engine_is_asked_whether_it_can_be_captured_where_it_can_be_asked(
    capturable: bool | None, answer: bool
) -> None:
    assert session_of(MadeUpCudart(), capturable=capturable).is_capturable() == answer


def test_the_scratch_memory_is_ours_and_counted() -> None:
    cudart = MadeUpCudart(room=100_000)
    session = session_of(cudart)
    tensors = 2 * (2 * 64 * 4) + 2 * 4 + 2 * 8  # latent and prediction, timestep, label

    assert 100_000 - cudart.room == tensors + MadeUpEngine.device_memory_size_v2
    session.close()
    assert cudart.room == 100_000


def test_a_gpu_without_room_for_the_scratch_memory_is_told() -> None:
    with pytest.raises(BackendUnavailable) as told:
        session_of(MadeUpCudart(room=500))

    assert "The GPU's memory is not enough" in one_line(told.value)


def test_what_was_fed_may_be_gone_before_the_device_reads_it() -> None:
    """A feed of another type is copied to a temporary, which nobody holds after its upload."""
    cudart = MadeUpCudart()
    found: list[float] = []

    def compute(places: dict[str, int]) -> None:
        found.append(ctypes.c_float.from_address(places["latent"]).value)

    session = session_of(cudart, compute=compute)

    session.run({**zeros(SPEC), "latent": np.full((2, 1, 8, 8), 7.0, dtype=np.float64)})

    assert found == [7.0]


def test_closing_waits_drops_the_context_and_frees_in_this_order() -> None:
    cudart = MadeUpCudart()
    session = session_of(cudart)
    session.enqueue()
    cudart.calls.clear()

    session.close()

    order = [cudart.calls.index(call) for call in ("cudaStreamSynchronize", "context dropped")]
    assert order == sorted(order)
    assert order[-1] < cudart.calls.index("cudaFree")


def test_closing_one_of_two_sessions_on_a_stream_closes_both() -> None:
    cudart = MadeUpCudart()
    cuda = Cuda(cudart)
    engines: list[Any] = [MadeUpEngine(SPEC, cudart) for _ in range(2)]
    first, _second = (EngineSession(engine, SPEC, cuda, "test") for engine in engines)

    first.close()

    assert cudart.calls.count("context dropped") == 2
    assert cudart.is_empty()
