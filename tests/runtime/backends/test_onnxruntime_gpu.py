"""ONNX Runtime's providers for NVIDIA's GPUs, where there is none: the choices, and the failures.

The sessions here are made up: no ONNX Runtime of a CPU refuses a capture or loses its GPU.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
from bundle_helpers import one_line, toy_manifest, write_graph

from pitstop import BackendUnavailable, BundleError
from pitstop.runtime.backend import SessionOptions
from pitstop.runtime.backends import onnxruntime as backend
from pitstop.runtime.bundle.folder import GraphFile

SPEC = toy_manifest(batch=2).denoiser("fp32")
CUDA = "CUDAExecutionProvider"
PLUGIN = "NvTensorRTRTXExecutionProvider"


def session_of(provider: str) -> Any:
    return SimpleNamespace(get_providers=lambda: [provider])


AVAILABLE = ["TensorrtExecutionProvider", CUDA, backend.CPU]


@pytest.fixture
def gpu_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ONNX Runtime for GPUs."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: AVAILABLE)


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch, gpu_build: None) -> None:
    """The same on a machine that has one."""
    monkeypatch.setattr(backend, "why_no_gpu", lambda: None)


@pytest.mark.usefixtures("with_gpu")
def test_cuda_is_taken_by_itself_and_tensorrt_is_not() -> None:
    assert backend._provider(None, AVAILABLE) == CUDA
    assert backend._provider("TensorrtExecutionProvider", AVAILABLE) == AVAILABLE[0]


@pytest.mark.usefixtures("gpu_build")
def test_cuda_is_not_taken_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "why_no_gpu", lambda: "no NVIDIA GPU found")

    assert backend._provider(None, AVAILABLE) == backend.CPU
    with pytest.raises(BackendUnavailable, match="no NVIDIA GPU found"):
        backend._provider(CUDA, AVAILABLE)


@pytest.mark.usefixtures("with_gpu")
def test_a_graph_that_cannot_be_captured_runs_call_by_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[dict[str, str]] = []

    def open_it(path: Path, chosen: str, options: object, settings: dict[str, str]) -> Any:
        asked.append(settings)
        if "enable_cuda_graph" in settings:
            raise BundleError("This session cannot use the graph capture feature", "Remedy")
        return session_of(chosen)

    monkeypatch.setattr(backend, "_open", open_it)

    backend._open_on_gpu(Path("toy.onnx"), CUDA, SessionOptions())

    assert asked == [{"use_tf32": "0", "enable_cuda_graph": "1"}, {"use_tf32": "0"}]


@pytest.mark.usefixtures("with_gpu")
def test_a_provider_that_was_asked_for_and_does_not_start_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backend, "_open_on_gpu", lambda *arguments: session_of(backend.CPU))

    with pytest.raises(BackendUnavailable) as told:
        backend.open_graph(GraphFile(Path("toy.onnx"), SPEC), SessionOptions(provider=CUDA))

    assert f"could not start {CUDA}" in one_line(told.value)


@pytest.mark.usefixtures("with_gpu")
def test_cuda_that_nobody_asked_for_and_does_not_start_leaves_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "_open_on_gpu", lambda *arguments: session_of(backend.CPU))
    path = write_graph(tmp_path / "toy.onnx", "denoiser", SPEC)

    session = backend.open_graph(GraphFile(path, SPEC), SessionOptions())

    assert session.device == backend.CPU


def test_the_plugin_without_its_package_is_told_with_its_install_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backend, "PLUGIN_MODULE", "no_such_plugin")

    assert "pip install onnxruntime-ep-nv-tensorrt-rtx-cu13" in str(
        backend.why_not_provider(PLUGIN)
    )


def test_every_reason_is_one_line() -> None:
    reasons = backend.providers_here()

    assert reasons.pop(backend.CPU) is None
    assert set(reasons) == set(backend.GRAPH_OPTION)
    assert not any("\n" in (reason or "") for reason in reasons.values())
