from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import onnx
import pytest
from tensorrt_helpers import import_trt

from pitstop import BackendUnavailable, EngineError, OptionError
from pitstop.export.engines.build import BuildOptions, build_engines
from pitstop.export.engines.process import build_apart
from pitstop.runtime.backends import tensorrt, tensorrt_rtx
from pitstop.runtime.builder import BuildRequest

RTX = "tensorrt-rtx"
ADA = ("8.9",)

# An int8 bias: what onnxruntime's quantizer writes and TensorRT's parser refuses.
INT32_DEQUANTIZED = """
<ir_version: 10, opset_import: ["": 19]>
refused (float[2, 4] latent) => (float[2, 4] prediction)
<float scale = {0.1}, int32[4] bias = {1, 2, 3, 4}> {
    dequantized = DequantizeLinear (bias, scale)
    prediction = Add (latent, dequantized)
}
"""


@pytest.fixture(autouse=True)
def _library() -> None:
    import_trt()


def unheard(name: str, done: int, steps: int) -> bool:
    return True


def request(graph: Path, folder: Path, **facts: object) -> BuildRequest:
    return BuildRequest(
        builder=RTX,
        graph=str(graph),
        plan=str(folder / "engine.plan"),
        timing_cache=str(folder / "timing.cache"),
        **{"compute_capabilities": ADA, **facts},  # type: ignore[arg-type]
    )


@pytest.fixture
def graph(tiny_bundle: Path) -> Path:
    return tiny_bundle / "graphs" / "denoiser.fp32.onnx"


def test_the_builder_tells_how_far_it_is(graph: Path, tmp_path: Path) -> None:
    heard: list[tuple[str, int, int]] = []

    def on_phase(name: str, done: int, steps: int) -> bool:
        heard.append((name, done, steps))
        return True

    build_apart(request(graph, tmp_path), on_phase)

    assert (tmp_path / "engine.plan").stat().st_size > 0
    assert heard
    assert all(0 <= done <= steps for _, done, steps in heard)
    assert heard[-1][1] == heard[-1][2]


def test_what_the_parser_refuses_is_one_line_with_node_operator_and_reason(tmp_path: Path) -> None:
    graph = tmp_path / "refused.onnx"
    onnx.save(onnx.parser.parse_model(INT32_DEQUANTIZED), graph)

    with pytest.raises(EngineError) as caught:
        build_apart(request(graph, tmp_path), unheard)

    [line] = str(caught.value).splitlines()
    assert "node number 0 (DequantizeLinear)" in line
    assert "input has type Int32" in line
    assert "cudaError" not in line
    assert "Export again" in line
    assert not (tmp_path / "engine.plan").exists()


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    graph = tmp_path / "cut.onnx"
    graph.write_bytes(b"no graph")

    with pytest.raises(EngineError, match=r"The parser .*cut\.onnx"):
        build_apart(request(graph, tmp_path), unheard)


def test_too_little_workspace_is_told_with_the_option(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        build_apart(request(graph, tmp_path, workspace_bytes=1), unheard)

    assert "within workspace limit" in str(caught.value)
    assert "--workspace" in str(caught.value)


def test_a_capability_that_the_library_does_not_have_lists_those_it_has(
    graph: Path, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match=r"compute capability 9\.0\. Choose from 7\.5, 8\.0"):
        build_apart(request(graph, tmp_path, compute_capabilities=("8.6", "9.0")), unheard)


def children() -> list[int]:
    pids = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [pid for pid in map(int, pids) if b"pitstop.export.engines.process" in _command(pid)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


def test_a_build_that_the_system_kills_says_what_needs_less_memory(
    graph: Path, tmp_path: Path
) -> None:
    """Memory cannot be taken away in a test: the signal of the kernel's killer is sent instead."""

    def kill() -> None:
        while not (pids := children()):
            time.sleep(0.01)
        os.kill(pids[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(EngineError) as caught:
        build_apart(request(graph, tmp_path), unheard)
    killer.join()

    assert "was killed, as the system does when memory runs out" in str(caught.value)
    assert "GB of memory were free" in str(caught.value)
    assert "--optimization-level 1" in str(caught.value)


def test_a_full_disk_is_one_line_and_leaves_no_plan(graph: Path, tmp_path: Path) -> None:
    """The limit on the size of a file stands for a disk that is full."""
    code = f"""
import signal
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from pitstop.export.engines.build import BuildOptions, build_engines
from pitstop import EngineError
try:
    build_engines(Path({str(tmp_path / "bundle")!r}), BuildOptions({RTX!r}, "fp32", {ADA!r}))
except EngineError as error:
    print(error)
"""
    subprocess.run(["cp", "-r", graph.parent.parent, tmp_path / "bundle"], check=True)

    done = subprocess.run(
        [sys.executable, "-c", code],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)),
        capture_output=True,
        text=True,
        check=False,
    )

    assert "cannot be written" in done.stdout, done.stderr
    assert list((tmp_path / "bundle" / "engines").iterdir()) == []


def test_engines_of_tensorrt_rtx_may_be_captured(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing tells which flags a plan was built with, but one that goes with no other does."""
    flags = (*tensorrt_rtx.FLAGS, "WEIGHT_STREAMING")
    monkeypatch.setattr(tensorrt_rtx, "FLAGS", flags)

    with pytest.raises(EngineError, match="kREQUIRE_USER_ALLOCATION is not compatible with"):
        tensorrt_rtx.build(request(graph, tmp_path), unheard)


def test_hardware_compatibility_is_refused_on_a_jetson(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "is_jetson", lambda: True)

    with pytest.raises(OptionError, match="no flags for compatibility") as told:
        BuildOptions("tensorrt", hardware_compatible=True, version_compatible=True)

    assert "`--hardware-compatible`" in told.value.problem
    assert "`--version-compatible`" not in told.value.problem


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"builder": "openvino"}, "no builder of engines called 'openvino'"),
        ({"optimization_level": 6}, "optimization level is 6"),
        ({"workspace_mib": 0}, "workspace is 0 MiB"),
        ({"compute_capabilities": ("sm89",)}, "no compute capability 'sm89'"),
        ({"hardware_compatible": True}, "no flags for compatibility"),
        ({"version_compatible": True}, "no flags for compatibility"),
        ({"builder": "tensorrt", "compute_capabilities": ADA}, "the GPU of this machine only"),
    ],
)
def test_options_that_do_not_fit_are_refused(facts: dict[str, object], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        BuildOptions(**{"builder": RTX, **facts})  # type: ignore[arg-type]


def test_without_tensorrt_the_message_has_the_command_that_installs_it(tiny_bundle: Path) -> None:
    with pytest.raises(BackendUnavailable, match=r"pip install 'pitstop\[tensorrt\]'"):
        build_engines(tiny_bundle, BuildOptions("tensorrt"))
