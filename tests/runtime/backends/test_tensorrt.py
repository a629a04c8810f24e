"""The two TensorRT backends: what they say where they cannot run.

CUDA and TensorRT are made up here (`made_up_cuda`), for failures that nothing real on a machine
without a GPU can show. Nothing here says that an engine calculates right.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bundle_helpers import one_line, toy_manifest, write_bundle, zeros
from cli_helpers import refused
from made_up_cuda import MadeUpCudart, MadeUpEngine, made_up_tensorrt

from pitstop import BackendUnavailable, EngineError
from pitstop.export.step_graph import step_graph
from pitstop.graphs.graph_file import write_graph
from pitstop.runtime.backend import SessionOptions
from pitstop.runtime.backends import import_backend, load_backend
from pitstop.runtime.backends import tensorrt as tensorrt_backend
from pitstop.runtime.backends import tensorrt_rtx as tensorrt_rtx_backend
from pitstop.runtime.bundle.engines import PLAN, key_for, new_engine, write_metadata
from pitstop.runtime.bundle.folder import GraphFile, open_bundle
from pitstop.runtime.bundle.manifest import STEP, GraphSpec
from pitstop.runtime.devices import cuda as cuda_file
from pitstop.runtime.devices import engine_backend
from pitstop.runtime.devices.cuda import Cuda
from pitstop.runtime.devices.engine_loop import EngineLoop
from pitstop.runtime.devices.engine_session import EngineSession, load_engine
from pitstop.runtime.machine.driver import Driver, Gpu, read_driver
from pitstop.runtime.sampling.request import Request
from pitstop.runtime.sampling.samplers import make_sampler

MANIFEST = toy_manifest(batch=2)
SPEC = MANIFEST.denoiser("fp32")
NAMES = ["tensorrt", "tensorrt-rtx"]

no_gpu = pytest.mark.skipif(read_driver().problem is None, reason="this machine has an NVIDIA GPU")


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> GraphSpec:
    return write_graph(step_graph(MANIFEST), tmp_path_factory.mktemp("step"), STEP)


@no_gpu
@pytest.mark.parametrize("name", NAMES)
def test_without_a_gpu_the_reason_is_one_line(name: str) -> None:
    why = import_backend(name).why_not()

    assert why is not None
    assert "no NVIDIA GPU found" in why
    assert "\n" not in why


@no_gpu
@pytest.mark.parametrize("name", NAMES)
def test_generate_says_what_is_missing_and_draws_nothing(tmp_path: Path, name: str) -> None:
    bundle = write_bundle(tmp_path / "toy", toy_manifest(split=True))

    line = refused("generate", bundle, "--backend", name, "--out", tmp_path / "out")

    assert f"The {name} backend cannot run here" in line
    assert "no NVIDIA GPU found" in line
    assert not (tmp_path / "out").exists()


@no_gpu
@pytest.mark.parametrize(
    "provider",
    ["CUDAExecutionProvider", "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider"],
)
def test_a_provider_without_its_gpu_says_what_is_missing(tmp_path: Path, provider: str) -> None:
    bundle = write_bundle(tmp_path / "toy", toy_manifest(split=True))

    line = refused("generate", bundle, "--provider", provider, "--out", tmp_path / "out")

    assert provider in line


@no_gpu
def test_auto_takes_no_engine_where_there_is_no_gpu() -> None:
    assert not load_backend("auto").NEEDS_ENGINE


def test_a_missing_library_is_told_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_backend, "MODULE", "no_such_tensorrt")

    why = str(tensorrt_backend.why_not())

    assert why.startswith("TensorRT is not installed (pip install 'pitstop[tensorrt]'")


def test_stubs_for_type_checkers_are_no_library() -> None:
    assert not engine_backend.is_installed("no_such_module_at_all")
    assert engine_backend.is_installed("numpy")


def test_a_library_that_does_not_load_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_tensorrt.py").write_text("raise OSError('libnvinfer.so.10: cannot open')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(tensorrt_backend, "MODULE", "broken_tensorrt")

    why = str(tensorrt_backend.why_not())

    assert why.startswith("TensorRT is installed but does not load: libnvinfer.so.10: cannot open")


@pytest.mark.parametrize(
    ("version", "is_old"),
    [
        ("8.6.1", True),
        ("10.2.0", True),
        ("10.3.0", False),
        ("10.13.0.35", False),
        ("11.4.1", False),
    ],
)
def test_a_version_before_jetpack_6_1_is_too_old(version: str, is_old: bool) -> None:
    why = tensorrt_backend.too_old(version)

    assert (why is not None) == is_old
    assert why is None or f"TensorRT {version} is older than 10.3" in why


def test_a_missing_cuda_python_is_told_with_its_install_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing() -> None:
        raise ImportError("No module named 'cuda'")

    monkeypatch.setattr(cuda_file, "import_cudart", missing)

    assert "(pip install cuda-bindings)" in str(cuda_file.why_no_cudart())


@pytest.mark.parametrize(
    ("complaint", "words"),
    [
        (
            "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file "
            "is generated on an incompatible device, expecting compute 8.7 got compute 8.9, "
            "please rebuild.)",
            "expecting compute 8.7 got compute 8.9",
        ),
        ("Error Code 1: Serialization (Serialization assertion stdVersionRead failed)", "stdVer"),
        ("", "TensorRT does not say why"),
    ],
)
def test_an_engine_of_another_gpu_or_version_is_refused_in_one_line(
    tmp_path: Path, complaint: str, words: str
) -> None:
    (tmp_path / "plan").write_bytes(b"plan")

    with pytest.raises(BackendUnavailable) as told:
        load_engine(made_up_tensorrt(complaint), tmp_path / "plan")

    assert words in one_line(told.value)
    assert "pitstop build" in told.value.remedy
    assert "nobody's business" not in str(told.value)


def test_a_gpu_that_is_full_when_an_engine_is_loaded_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "plan").write_bytes(b"plan")
    complaint = "Error Code 2: OutOfMemory (Requested size was 4294967296 bytes.)"

    with pytest.raises(BackendUnavailable) as told:
        load_engine(made_up_tensorrt(complaint), tmp_path / "plan")

    assert "The GPU's memory is not enough" in one_line(told.value)
    assert "4294967296 bytes" in told.value.problem


def test_a_gpu_without_room_for_the_tensors_is_told() -> None:
    cuda = Cuda(MadeUpCudart(room=100))

    with pytest.raises(BackendUnavailable) as told:
        EngineSession(MadeUpEngine(SPEC, MadeUpCudart()), SPEC, cuda, "test")  # type: ignore[arg-type]

    assert "The GPU's memory is not enough" in one_line(told.value)


def test_a_gpu_without_room_for_the_activations_is_told() -> None:
    cudart = MadeUpCudart()
    engine: Any = MadeUpEngine(SPEC, cudart, context=False)

    with pytest.raises(BackendUnavailable) as told:
        EngineSession(engine, SPEC, Cuda(cudart), "test")

    assert "no room for its activations" in one_line(told.value)


def test_an_engine_of_another_shape_is_refused() -> None:
    cudart = MadeUpCudart()
    engine: Any = MadeUpEngine(toy_manifest(batch=3).denoiser("fp32"), cudart)

    with pytest.raises(BackendUnavailable) as told:
        EngineSession(engine, SPEC, Cuda(cudart), "test")

    assert "(3, 1, 8, 8)" in one_line(told.value)
    assert "(2, 1, 8, 8)" in told.value.problem


def test_a_refused_enqueue_is_an_error_and_no_old_answer() -> None:
    cudart = MadeUpCudart()
    engine: Any = MadeUpEngine(SPEC, cudart, refuses=lambda call: call == 2)
    session = EngineSession(engine, SPEC, Cuda(cudart), "test")
    session.run(zeros(SPEC))

    with pytest.raises(BackendUnavailable) as told:
        session.run(zeros(SPEC))

    assert "refused to run the engine of denoiser.fp32.onnx" in one_line(told.value)


def test_a_cuda_error_names_the_call_and_the_error() -> None:
    cudart = MadeUpCudart(failing={"cudaStreamSynchronize": 700})
    engine: Any = MadeUpEngine(SPEC, cudart)
    session = EngineSession(engine, SPEC, Cuda(cudart), "test")

    with pytest.raises(BackendUnavailable) as told:
        session.run(zeros(SPEC))

    assert told.value.problem == "CUDA's cudaStreamSynchronize failed: cudaErrorNumber700"
    one_line(told.value)


def loop_for(
    cudart: MadeUpCudart, step: GraphSpec, **options: Any
) -> tuple[EngineLoop, MadeUpEngine, EngineSession]:
    cuda = Cuda(cudart)
    engine: Any = MadeUpEngine(SPEC, cudart, **options)
    stepping: Any = MadeUpEngine(step, cudart)
    denoiser = EngineSession(engine, SPEC, cuda, "test")
    session = EngineSession(stepping, step, cuda, "test")
    return EngineLoop(denoiser, session, cuda, MANIFEST), engine, denoiser


def draw(loop: EngineLoop) -> None:
    """A guided image in four steps."""
    sampler = make_sampler("ddim", MANIFEST.schedule, 4)
    request = Request([0], MANIFEST.examples(1), sampler, 3.0, MANIFEST.untold)
    loop.draw([request], lambda latents: None)


def test_an_enqueue_that_is_refused_before_the_capture_is_an_error(step: GraphSpec) -> None:
    cudart = MadeUpCudart()
    loop, _, _ = loop_for(cudart, step, refuses=lambda call: call == 1)

    with pytest.raises(BackendUnavailable, match="refused to run the engine"):
        draw(loop)

    assert "cudaStreamBeginCapture" not in cudart.calls


def test_an_enqueue_that_is_refused_in_the_capture_leaves_plain_calls(step: GraphSpec) -> None:
    cudart = MadeUpCudart()
    loop, engine, _ = loop_for(cudart, step, refuses=lambda call: call == 2)

    draw(loop)

    assert cudart.recording is None  # the capture was ended
    assert "cudaGraphLaunch" not in cudart.calls
    assert engine.calls == 6  # warm-up, capture, four steps


def test_an_engine_that_says_so_is_not_captured(step: GraphSpec) -> None:
    cudart = MadeUpCudart()
    loop, engine, _ = loop_for(cudart, step, capturable=False)

    draw(loop)

    assert "cudaStreamBeginCapture" not in cudart.calls
    assert engine.calls == 5  # warm-up, four steps


def test_an_engine_that_was_captured_is_called_no_more(step: GraphSpec) -> None:
    cudart = MadeUpCudart()
    loop, engine, _ = loop_for(cudart, step, capturable=True)

    draw(loop)
    draw(loop)

    assert engine.calls == 2  # warm-up and capture
    assert cudart.calls.count("cudaGraphLaunch") == 8


def test_the_host_waits_for_no_step_but_those_that_are_two_behind(step: GraphSpec) -> None:
    cudart = MadeUpCudart()
    loop, _, _ = loop_for(cudart, step)
    draw(loop)
    cudart.calls.clear()

    draw(loop)

    assert cudart.calls.count("cudaGraphLaunch") == 4
    assert cudart.calls.count("cudaStreamSynchronize") == 1  # for the last latent
    launches = [index for index, name in enumerate(cudart.calls) if name == "cudaGraphLaunch"]
    assert "cudaEventSynchronize" not in cudart.calls[: launches[1]]


def test_closing_gives_all_memory_back_and_twice_does_no_harm(step: GraphSpec) -> None:
    cudart = MadeUpCudart()
    loop, _, session = loop_for(cudart, step)
    draw(loop)

    session.close()
    session.close()

    assert cudart.is_empty()


def engines_in(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    complaint: str,
    *,
    capability: str,
    split: bool = True,
) -> BackendUnavailable | EngineError:
    """What opening a bundle's engine says, on a machine with a made-up GPU 8.7."""
    bundle = open_bundle(write_bundle(folder, toy_manifest(split=split)))
    key = key_for(
        bundle,
        "denoiser.fp32",
        builder="tensorrt",
        builder_version="10.3.0",
        cuda_major=tensorrt_backend.cuda_major(),
        recipe=tensorrt_backend.RECIPE,
        compute_capability=capability,
        gpu="Orin",
    )
    with new_engine(bundle.folder, key) as place:
        (place / PLAN).write_bytes(b"plan")
        write_metadata(place, key, 1.0)
    gpu = Gpu("Orin", "8.7", 8 << 30, integrated=True)
    monkeypatch.setattr(engine_backend, "read_driver", lambda: Driver("12.6", (gpu,), None))
    monkeypatch.setattr(tensorrt_backend, "import_library", lambda: made_up_tensorrt(complaint))
    with pytest.raises((BackendUnavailable, EngineError)) as told:
        tensorrt_backend.open_graph(bundle.graph("denoiser.fp32"), SessionOptions())
    one_line(told.value)
    return told.value


def test_an_engine_for_another_gpu_is_not_even_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = engines_in(tmp_path / "toy", monkeypatch, "never said", capability="8.9")

    assert "its compute capability is 8.9, here it is 8.7" in error.problem
    assert f"`pitstop build {tmp_path / 'toy'} --backend tensorrt" in error.remedy


def test_an_engine_that_fits_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = engines_in(tmp_path / "toy", monkeypatch, "out of memory", capability="8.7")

    assert "The GPU's memory is not enough: loading" in error.problem


def test_an_open_that_fails_leaves_nothing_on_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cudart = MadeUpCudart(room=5000)  # too little for the engine's scratch memory
    engine = MadeUpEngine(MANIFEST.denoiser("fp32"), cudart)
    engine.device_memory_size_v2 = 10_000
    monkeypatch.setattr(engine_backend, "load_engine", lambda *arguments, **options: engine)
    monkeypatch.setattr(engine_backend, "import_cudart", lambda: cudart)

    error = engines_in(tmp_path / "toy", monkeypatch, "", capability="8.7", split=False)

    assert "The GPU's memory is not enough" in error.problem
    assert cudart.is_empty()


@pytest.mark.parametrize(
    ("driver", "library", "why"),
    [
        ("12.4", "13", "is of CUDA 13, and the driver runs CUDA up to 12.4 (pip install "),
        ("13.0", "12", None),
        ("12.4", "", None),
        (None, "13", None),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_a_driver_that_is_too_old_for_the_library_is_told_with_the_package_that_fits(
    monkeypatch: pytest.MonkeyPatch, name: str, driver: str | None, library: str, why: str | None
) -> None:
    backend = import_backend(name)
    monkeypatch.setattr(backend, "why_no_library", lambda: None)
    monkeypatch.setattr(backend, "cuda_major", lambda: library)
    monkeypatch.setattr(engine_backend, "read_driver", lambda: Driver(driver, (), None))

    told = str(backend.why_not())

    assert ("is of CUDA" in told) == (why is not None)
    assert why is None or f"{why}{name}-cu12)" in told


@pytest.mark.parametrize("name", NAMES)
def test_a_library_that_is_not_there_is_of_no_cuda(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The toolkit beside it would tell one."""
    backend = import_backend(name)
    monkeypatch.setattr(backend, "why_no_library", lambda: "it is not installed")
    monkeypatch.setattr(backend, "cuda_major", lambda: "13")
    monkeypatch.setattr(engine_backend, "read_driver", lambda: Driver("12.6", (), None))

    told = str(backend.why_not())

    assert told.startswith("it is not installed")
    assert "is of CUDA" not in told


def test_nvidias_own_package_of_tensorrt_rtx_goes_before_the_bindings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_tensorrt_rtx.py").write_text("__version__ = '1.9.0'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(tensorrt_rtx_backend, "PACKAGE", "own_tensorrt_rtx")

    assert tensorrt_rtx_backend.import_library().__version__ == "1.9.0"
    assert tensorrt_rtx_backend.why_no_library() is None


def test_a_tensorrt_rtx_without_the_flag_for_captures_is_too_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old_tensorrt_rtx.py").write_text("__version__ = '1.1.1.26'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(tensorrt_rtx_backend, "PACKAGE", "old_tensorrt_rtx")

    why = str(tensorrt_rtx_backend.why_no_library())

    assert why.startswith("TensorRT-RTX 1.1.1.26 is older than 1.2 (pip install")


def test_an_execution_provider_is_not_for_engines() -> None:
    options = SessionOptions(provider="CUDAExecutionProvider")

    with pytest.raises(BackendUnavailable, match="Leave out `--provider`"):
        tensorrt_backend.open_graph(GraphFile(Path("x"), SPEC), options)


def test_the_real_cuda_runtime_has_every_function_that_is_called() -> None:
    """Called without a driver it answers with an error, which must come out as one line."""
    cudart = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    made_up = [name for name in dir(MadeUpCudart) if name.startswith("cuda")]

    assert [name for name in made_up if not hasattr(cudart, name)] == []


@no_gpu
def test_the_real_cuda_runtime_without_a_driver_is_one_line() -> None:
    cudart = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")

    with pytest.raises(BackendUnavailable) as told:
        Cuda(cudart)

    assert "cudaStreamCreateWithFlags failed: cudaError" in one_line(told.value)
