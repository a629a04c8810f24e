import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from bundle_helpers import one_line, toy_manifest, write_graph

from pitstop import BackendUnavailable, BundleError
from pitstop.runtime.backend import SessionOptions
from pitstop.runtime.backends import import_backend
from pitstop.runtime.bundle.folder import GraphFile
from pitstop.runtime.bundle.manifest import GraphSpec, TensorSpec

OPENVINO = import_backend("openvino")
needs_openvino = pytest.mark.skipif(OPENVINO.why_not() is not None, reason="no openvino")

TESTS = Path(__file__).parent.parent.parent
TOY = toy_manifest(batch=3).denoiser("fp32")
ONE_THREAD = SessionOptions(threads=1)
SIZE = 256
SPEC = GraphSpec(
    path="product.onnx",
    inputs=(TensorSpec("x", (32, SIZE), "float32"),),
    outputs=(TensorSpec("y", (32, SIZE), "float32"),),
    opset=21,
    nodes={},
    weight_bytes=0,
)
X = np.random.default_rng(0).standard_normal((32, SIZE)).astype(np.float32)
WEIGHT = np.random.default_rng(1).standard_normal((SIZE, SIZE)).astype(np.float32)
EXACT = X.astype(np.float64) @ WEIGHT.astype(np.float64)
SCALE = np.float32(np.abs(WEIGHT).max() / 127)
ROUNDED = np.round(WEIGHT / SCALE).astype(np.int8)


def write_product(folder: Path, body: str, **weights: npt.NDArray[np.generic]) -> Path:
    """Write the graph ``body``, from x to y, with ``weights`` in it."""
    header = '<ir_version: 10, opset_import: ["": 21]>'
    sides = f"(float[32, {SIZE}] x) => (float[32, {SIZE}] y)"
    model = onnx.parser.parse_model(f"{header} product {sides} {{ {body} }}")
    for name, weight in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    onnx.save(model, folder / SPEC.path)
    return folder / SPEC.path


def run(path: Path) -> npt.NDArray[np.generic]:
    return OPENVINO.open_graph(GraphFile(path, SPEC), ONE_THREAD).run({"x": X})["y"]


def relative_l2(found: npt.NDArray[np.generic], wanted: npt.NDArray[np.generic]) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@needs_openvino
def test_an_fp32_graph_is_calculated_in_fp32(tmp_path: Path) -> None:
    path = write_product(tmp_path, "y = MatMul(x, w)", w=WEIGHT)
    onnxruntime = import_backend("onnxruntime").open_graph(GraphFile(path, SPEC), ONE_THREAD)

    found, wanted = run(path), onnxruntime.run({"x": X})["y"]

    assert relative_l2(found, wanted) <= 1e-6
    assert relative_l2(found, EXACT) <= 1e-6


@needs_openvino
def test_bf16_stays_where_a_graph_has_it_and_nowhere_else(tmp_path: Path) -> None:
    in_bf16 = "a = Cast<to = 16>(x) b = Cast<to = 16>(w) c = MatMul(a, b) {} = Cast<to = 1>(c)"
    low = run(write_product(tmp_path, in_bf16.format("y"), w=WEIGHT))
    rest = f"{in_bf16.format('low')} high = MatMul(x, w) y = Sub(high, low)"

    found = run(write_product(tmp_path, rest, w=WEIGHT)).astype(np.float64) + low

    assert 1e-4 <= relative_l2(low, EXACT) <= 1e-2
    assert relative_l2(found, EXACT) <= 1e-6


@needs_openvino
def test_an_fp16_graph_keeps_at_least_fp16(tmp_path: Path) -> None:
    body = "a = Cast<to = 10>(x) b = MatMul(a, w) c = Cast<to = 1>(b) y = Identity(c)"

    found = run(write_product(tmp_path, body, w=WEIGHT.astype(np.float16)))

    assert relative_l2(found, EXACT) <= 1e-3


@needs_openvino
def test_int8_is_what_its_pairs_say(tmp_path: Path) -> None:
    body = """
        a = QuantizeLinear(x, x_scale, zero) b = DequantizeLinear(a, x_scale, zero)
        c = DequantizeLinear(w, scale, zero) y = MatMul(b, c)
    """
    x_scale, zero = np.float32(0.03), np.array(0, np.int8)
    path = write_product(
        tmp_path, body, w=ROUNDED, scale=np.array(SCALE), x_scale=np.array(x_scale), zero=zero
    )

    found = run(path)

    rounded = np.clip(np.round(X / x_scale), -128, 127).astype(np.float64)
    assert relative_l2(found, (rounded @ ROUNDED) * x_scale * SCALE) <= 1e-6


@needs_openvino
def test_int8_weights_alone_leave_the_activations_in_fp32(tmp_path: Path) -> None:
    body = "a = DequantizeLinear(w, scale, zero) y = MatMul(x, a)"
    scale, zero = np.full(SIZE, SCALE), np.zeros(SIZE, np.int8)

    found = run(write_product(tmp_path, body, w=ROUNDED, scale=scale, zero=zero))

    assert relative_l2(found, X.astype(np.float64) @ (ROUNDED * np.float64(SCALE))) <= 1e-6


@needs_openvino
def test_the_threads_are_those_asked_for_and_not_pinned_to_cores(tmp_path: Path) -> None:
    path = write_product(tmp_path, "y = MatMul(x, w)", w=WEIGHT)

    session = OPENVINO.open_graph(GraphFile(path, SPEC), ONE_THREAD)

    compiled = session._request.get_compiled_model()  # type: ignore[attr-defined]
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled.get_property("ENABLE_CPU_PINNING") is False
    assert relative_l2(session.run({"x": X})["y"], EXACT) <= 1e-6


@needs_openvino
def test_what_is_given_belongs_to_the_caller(tmp_path: Path) -> None:
    path = write_product(tmp_path, "y = MatMul(x, w)", w=WEIGHT)
    session = OPENVINO.open_graph(GraphFile(path, SPEC), ONE_THREAD)
    first = session.run({"x": X})["y"]
    kept = first.copy()

    second = session.run({"x": 2 * X})["y"]
    second += 1

    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(session.run({"x": X})["y"], kept)
    session.close()
    np.testing.assert_array_equal(first, kept)


@needs_openvino
def test_a_fed_array_may_change_after_the_call_or_be_read_only(tmp_path: Path) -> None:
    path = write_product(tmp_path, "y = MatMul(x, w)", w=WEIGHT)
    session = OPENVINO.open_graph(GraphFile(path, SPEC), ONE_THREAD)
    fed = X.copy()
    session.run({"x": fed})
    fed *= 3
    wanted = session.run({"x": fed.copy()})["y"]
    fed.flags.writeable = False

    found = session.run({"x": fed})["y"]

    np.testing.assert_array_equal(found, wanted)


@needs_openvino
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"not an ONNX file\nat all", "OpenVINO cannot open"),
        (b"\x08\x0a", "takes nothing, but the manifest says label int64 [3]"),
        (b"", "takes nothing, but the manifest says label int64 [3]"),
    ],
)
def test_a_broken_file_is_told_and_nothing_else_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes, what: str
) -> None:
    path = tmp_path / "toy.onnx"
    path.write_bytes(content)

    with pytest.raises(BundleError) as told:
        OPENVINO.open_graph(GraphFile(path, TOY), ONE_THREAD)

    assert what in one_line(told.value)
    assert str(path) in told.value.problem
    assert "Export the bundle again" in told.value.remedy
    assert capfd.readouterr() == ("", "")


@needs_openvino
def test_a_missing_file_an_unknown_operator_and_lost_weights_are_told(tmp_path: Path) -> None:
    def problem(path: Path, spec: GraphSpec) -> str:
        with pytest.raises(BundleError) as told:
            OPENVINO.open_graph(GraphFile(path, spec), ONE_THREAD)
        assert "`--backend onnxruntime`" in one_line(told.value)
        return told.value.problem

    missing = tmp_path / "missing.onnx"
    unknown = write_graph(tmp_path / "toy.onnx", "denoiser", TOY)
    unknown.write_bytes(unknown.read_bytes().replace(b"Tanh", b"Tenh"))
    lost = write_product(tmp_path, "y = MatMul(x, w)", w=WEIGHT)
    onnx.save(onnx.load(lost), lost, save_as_external_data=True, location="weights.data")
    np.testing.assert_array_equal(run(lost).shape, X.shape)
    (tmp_path / "weights.data").unlink()

    assert f"OpenVINO cannot open {missing}: " in problem(missing, TOY)
    assert "Tenh" in problem(unknown, TOY)
    assert "weights.data" in problem(lost, SPEC)


@needs_openvino
@pytest.mark.parametrize(
    ("side", "tensor", "what"),
    [
        ("inputs", TensorSpec("x", (32, SIZE), "float16"), "takes x float32 [32,256]"),
        ("inputs", TensorSpec("x", (16, SIZE), "float32"), "takes x float32 [32,256]"),
        ("outputs", TensorSpec("z", (32, SIZE), "float32"), "gives y float32 [32,256]"),
    ],
)
def test_a_graph_that_is_not_the_manifests_is_told_with_both(
    tmp_path: Path, side: str, tensor: TensorSpec, what: str
) -> None:
    path = write_product(tmp_path, "y = MatMul(x, w)", w=WEIGHT)
    spec = dataclasses.replace(SPEC, **{side: (tensor,)})

    with pytest.raises(BundleError) as told:
        OPENVINO.open_graph(GraphFile(path, spec), ONE_THREAD)

    shape = ",".join(map(str, tensor.shape))
    says = f"but the manifest says {tensor.name} {tensor.dtype} [{shape}]"
    assert told.value.problem == f"The graph {path} {what}, {says}"
    one_line(told.value)


def test_an_execution_provider_is_refused(tmp_path: Path) -> None:
    options = SessionOptions(provider="CUDAExecutionProvider")
    with pytest.raises(BackendUnavailable) as told:
        OPENVINO.open_graph(GraphFile(tmp_path / "toy.onnx", TOY), options)
    assert "OpenVINO has no CUDAExecutionProvider" in one_line(told.value)
    assert "`--provider`" in told.value.remedy


def test_a_machine_without_openvino_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert OPENVINO.why_not() == (
        "the package openvino is not installed (pip install 'pitstop[openvino]')"
    )


WATCH = """
import sys
from pathlib import Path
from pitstop.runtime.backend import SessionOptions
from pitstop.runtime.bundle.folder import GraphFile
from pitstop.runtime.backends import load_backend
from bundle_helpers import toy_manifest, zeros

def watch(event, args):
    if event.startswith(("socket.", "urllib.", "subprocess.", "os.fork", "os.exec")):
        print(event, args)

sys.addaudithook(watch)
spec = toy_manifest(batch=3).denoiser("fp32")
graph = GraphFile(Path(sys.argv[1]), spec)
session = load_backend("openvino").open_graph(graph, SessionOptions(threads=1))
session.run(zeros(spec))
import openvino_telemetry  # whoever wants it can still have it
"""


@needs_openvino
def test_nothing_is_sent_printed_or_left_in_the_home_folder(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "toy.onnx", "denoiser", TOY)
    home = tmp_path / "home"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if name != "CI"}  # it is quiet there

    done = subprocess.run(
        [sys.executable, "-c", WATCH, str(path)],
        env={**kept, "HOME": str(home), "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(home.iterdir()) == []
