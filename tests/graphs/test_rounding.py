"""The twin against NumPy, which rounds after each operation."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from low_helpers import types
from pass_helpers import Array, graph, noise

from pitstop.graphs.graph_file import run_graph
from pitstop.graphs.retype import FLOAT, retype
from pitstop.graphs.rounding import rounded

DTYPES = [ir.DataType.FLOAT16, ir.DataType.BFLOAT16]
SIGNATURE = "(float[4, 8] latent) => (float[4, 8] y)"


def low(body: str, dtype: ir.DataType, **weights: object) -> ir.Model:
    model = graph(SIGNATURE, body, **weights)
    retype(model.graph, set(model.graph), dtype)
    return model


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_twin_rounds_every_value_as_numpy_does(dtype: ir.DataType) -> None:
    def near(array: Array) -> Array:
        return array.astype(dtype.numpy()).astype(np.float32)

    x, w, v = noise(4, 8), noise(8, 8, seed=1), noise(8, seed=2)
    model = low("a = MatMul(latent, w) b = Add(a, v) y = Mul(b, b)", dtype, w=w, v=v)

    found = run_graph(rounded(model, dtype), {"latent": x})["y"]

    b = near(near(near(x) @ near(w)) + near(v))  # type: ignore[operator]
    np.testing.assert_array_equal(found, near(b * b))  # type: ignore[operator]


def test_the_twin_is_fp32_throughout_and_the_graph_is_left_as_it_was() -> None:
    model = low("a = MatMul(latent, w) y = Abs(a)", DTYPES[0], w=noise(8, 8))
    before = types(model)

    twin = rounded(model, DTYPES[0])

    made = [node for node in twin.graph if node.op_type != "Cast"]
    assert {value.dtype for node in made for value in node.outputs} == {FLOAT}
    assert types(model) == before
    assert before["a"] == DTYPES[0]


def test_what_only_moves_numbers_is_not_rounded_again() -> None:
    model = low(
        "a = Reshape(latent, shape) y = Reshape(a, back)", DTYPES[0], shape=[8, 4], back=[4, 8]
    )

    kinds = [node.op_type for node in rounded(model, DTYPES[0]).graph]

    assert kinds == ["Cast", "Cast", "Cast", "Reshape", "Reshape", "Cast"]


@pytest.mark.parametrize(
    ("dtype", "finite"), list(zip(DTYPES, [False, True], strict=True)), ids=str
)
def test_what_lies_beyond_the_range_becomes_infinite(dtype: ir.DataType, finite: bool) -> None:
    model = low("a = Mul(latent, large) y = Abs(a)", dtype, large=[300.0] * 8)

    found = run_graph(rounded(model, dtype), {"latent": 300 * np.ones((4, 8), np.float32)})["y"]

    assert np.isfinite(found).all() == finite
