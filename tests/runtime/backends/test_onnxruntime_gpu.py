"""ONNX Runtime's providers for NVIDIA's GPUs, where there is none: the choices, and the failures.

The sessions here are made up: no ONNX Runtime of a CPU refuses a capture or loses its GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from bundle_helpers import one_line, toy_manifest, write_graph
from onnxruntime.capi import onnxruntime_pybind11_state as state

from pitstop import BackendUnavailable, BundleError
from pitstop.runtime.backend import Place, SessionOptions
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
    """The same on a machine that has one, with all that CUDA needs."""
    monkeypatch.setattr(backend, "why_no_gpu", lambda: None)
    monkeypatch.setattr(backend, "why_not_started", lambda name: None)


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


def test_the_probe_is_a_graph_that_runs() -> None:
    session = backend._open(backend.PROBE, backend.CPU, SessionOptions())

    [doubled] = session.run(None, {"x": np.full(1, 3.0, np.float32)})

    assert onnx.load_from_string(backend.PROBE).graph.node[0].op_type == "Add"
    assert doubled.tolist() == [6.0]


class Started:
    """A session that ONNX Runtime gave."""

    def __init__(self, provider: str, failure: Exception | None = None) -> None:
        self.provider, self.failure = provider, failure

    def get_providers(self) -> list[str]:
        return [self.provider]

    def run(self, outputs: None, feeds: dict[str, Any]) -> None:
        if self.failure:
            raise self.failure


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An ONNX Runtime for GPUs, whose CUDA provider is a file that no loader takes."""
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / "libonnxruntime_providers_cuda.so").write_bytes(b"no library")
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(backend, "why_no_gpu", lambda: None)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: AVAILABLE)
    backend.why_not_started.cache_clear()
    yield tmp_path
    backend.why_not_started.cache_clear()


def start(monkeypatch: pytest.MonkeyPatch, session: Started | Exception) -> None:
    def open_it(model: object, *arguments: object, **options: object) -> Started:
        assert model == backend.PROBE
        if isinstance(session, Exception):
            raise session
        return session

    monkeypatch.setattr(onnxruntime, "InferenceSession", open_it)


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("session", "said"),
    [
        (Started(backend.CPU), "libonnxruntime_providers_cuda.so: file too short"),
        (RuntimeError("file.cc:729\nPlease install CUDA\n"), "file too short"),
        (Started(CUDA, state.Fail("no kernel image is available\nmore")), "file too short"),
    ],
)
def test_a_provider_that_was_only_built_in_cannot_run(
    monkeypatch: pytest.MonkeyPatch, session: Started | Exception, said: str
) -> None:
    start(monkeypatch, session)

    why = str(backend.why_not_provider(CUDA))

    assert why.startswith("it does not start: ")
    assert said in why
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]'" in why
    assert "\n" not in why
    assert not backend.runs_on_gpu()
    assert backend.rank(SessionOptions(), []) == (
        Place.CPU,
        "nothing that goes before it runs here",
    )
    assert backend._provider(None, AVAILABLE) == backend.CPU


@pytest.mark.parametrize(
    ("session", "said"),
    [
        (Started(backend.CPU), f"ONNX Runtime took {backend.CPU} instead"),
        (RuntimeError("file.cc:729\nPlease install CUDA\n"), "Please install CUDA"),
        (Started(CUDA, state.Fail("no kernel image is available\nmore")), "no kernel image"),
    ],
)
def test_a_provider_whose_library_loads_and_which_does_not_run_says_what_onnx_runtime_says(
    package: Path, monkeypatch: pytest.MonkeyPatch, session: Started | Exception, said: str
) -> None:
    (package / "capi" / "libonnxruntime_providers_cuda.so").unlink()
    start(monkeypatch, session)

    why = str(backend.why_not_provider(CUDA))

    assert why.startswith("it does not start: ")
    assert said in why
    assert "\n" not in why


@pytest.mark.usefixtures("package")
def test_a_provider_is_started_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    start(monkeypatch, Started(CUDA))
    assert backend.why_not_provider(CUDA) is None
    start(monkeypatch, RuntimeError("started again"))

    assert backend.runs_on_gpu()
    assert backend.rank(SessionOptions(), []) == (
        Place.GPU,
        "it has CUDA here, and a GPU goes before a CPU",
    )


def test_the_plugin_beside_the_cpu_package_runs_with_the_arrays_on_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU's package cannot allocate on a GPU, so the tensors have no places there."""
    opened: list[tuple[object, ...]] = []

    def open_it(*arguments: object) -> Any:
        opened.append(arguments)
        return SimpleNamespace(get_providers=lambda: [PLUGIN], io_binding=lambda: None)

    monkeypatch.setattr(backend, "why_not_offered", lambda name: None)
    monkeypatch.setattr(backend, "why_no_gpu", lambda: None)
    monkeypatch.setattr(backend, "_open", open_it)

    graph = GraphFile(tmp_path / "toy.onnx", SPEC)
    session = backend.open_graph(graph, SessionOptions(provider=PLUGIN))

    assert isinstance(session, backend.OnnxRuntimeSession)
    assert session.device == PLUGIN
    assert opened == [(tmp_path / "toy.onnx", PLUGIN, SessionOptions(provider=PLUGIN))]


def test_every_reason_is_one_line() -> None:
    reasons = backend.providers_here()

    assert reasons.pop(backend.CPU) is None
    assert set(reasons) == set(backend.GRAPH_OPTION)
    assert not any("\n" in (reason or "") for reason in reasons.values())
