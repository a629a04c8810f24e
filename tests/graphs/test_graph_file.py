from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from pass_helpers import graph, noise

from pitstop.graphs import graph_file
from pitstop.graphs.graph_file import opened, run_graph, with_outputs, write_graph
from pitstop.runtime.backend import SessionOptions

X = {"x": noise(4, 3)}


def linear() -> ir.Model:
    return graph(
        "(float[4, 3] x) => (float[4, 2] y)", "m = MatMul(x, w) y = Tanh(m)", w=noise(3, 2)
    )


def test_a_graph_is_written_and_described(tmp_path: Path) -> None:
    spec = write_graph(linear(), tmp_path, "it")

    assert spec.path == "graphs/it.onnx"
    assert [str(tensor) for tensor in spec.inputs] == ["x float32 [4, 3]"]
    assert [str(tensor) for tensor in spec.outputs] == ["y float32 [4, 2]"]
    assert (spec.opset, spec.nodes, spec.weight_bytes) == (18, {"MatMul": 1, "Tanh": 1}, 24)


def test_what_was_read_from_a_file_beside_a_graph_is_written_into_a_small_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big, small = tmp_path / "big", tmp_path / "small"
    big.mkdir()
    small.mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(graph_file, "INLINE_LIMIT", 0)
        write_graph(linear(), big, "it")
    assert (big / "graphs/it.onnx.data").exists()

    write_graph(ir.load(big / "graphs/it.onnx"), small, "it")

    assert [path.name for path in (small / "graphs").iterdir()] == ["it.onnx"]
    again = run_graph(ir.load(small / "graphs/it.onnx"), X)
    np.testing.assert_array_equal(again["y"], run_graph(linear(), X)["y"])


def test_an_opened_graph_answers_call_after_call() -> None:
    with opened(linear(), SessionOptions("CPUExecutionProvider", threads=1)) as session:
        answers = [session.run(X)["y"] for _ in range(2)]

    np.testing.assert_array_equal(answers[0], answers[1])


def test_other_values_are_outputs_of_a_copy() -> None:
    model = linear()

    found = run_graph(with_outputs(model, ["m"]), X)

    np.testing.assert_allclose(np.tanh(found["m"]), run_graph(model, X)["y"], rtol=1e-6)
    assert [value.name for value in model.graph.outputs] == ["y"]
