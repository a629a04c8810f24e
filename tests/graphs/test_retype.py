from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
from low_helpers import types
from pass_helpers import check_shapes, graph, noise

from pitstop.graphs.graph_file import run_graph
from pitstop.graphs.retype import FLOAT, retype
from pitstop.graphs.rounding import rounded
from pitstop.graphs.weights import constant

FP16 = ir.DataType.FLOAT16
BF16 = ir.DataType.BFLOAT16
SIGNATURE = "(float[2, 3] latent) => (float[2, 3] y)"


def retyped(
    body: str, low: str, signature: str = SIGNATURE, dtype: ir.DataType = FP16, **weights: object
) -> ir.Model:
    """The graph with the nodes that make the named values in ``dtype``."""
    model = graph(signature, body, **weights)
    names = set(low.split())
    nodes = {node for node in model.graph if node.outputs[0].name in names}
    retype(model.graph, nodes, dtype)
    check_shapes(model)
    return model


def casts(model: ir.Model) -> list[tuple[str, str]]:
    nodes = [node for node in model.graph if node.op_type == "Cast"]
    return [(str(node.inputs[0].name), str(node.outputs[0].name)) for node in nodes]  # type: ignore[union-attr]


def test_values_keep_their_names_and_casts_are_named_after_them() -> None:
    model = retyped("a = Abs(latent) b = Neg(a) y = Exp(b)", low="b")

    assert casts(model) == [("a", "a_fp16"), ("b", "b_fp32")]
    assert types(model) == {"a": FLOAT, "a_fp16": FP16, "b": FP16, "b_fp32": FLOAT, "y": FLOAT}


def test_a_value_is_cast_once_for_all_its_readers() -> None:
    model = retyped("b = Neg(latent) c = Abs(latent) d = Add(b, c) y = Add(d, latent)", low="b c d")

    assert casts(model) == [("latent", "latent_fp16"), ("d", "d_fp32")]


def test_a_cast_value_is_never_cast_back() -> None:
    model = retyped("a = Abs(latent) b = Neg(a) c = Exp(a) d = Add(b, b) y = Mul(d, c)", low="b d")

    assert casts(model) == [("a", "a_fp16"), ("d", "d_fp32")]


@pytest.mark.parametrize("reader", ["", "z = Abs(y)"])
def test_an_output_stays_float32_under_its_own_name(reader: str) -> None:
    more = ", float[2, 3] z" if reader else ""
    model = retyped(
        f"y = Neg(latent) {reader}",
        low="y",
        signature=f"(float[2, 3] latent) => (float[2, 3] y{more})",
    )

    assert {value.dtype for value in model.graph.outputs} == {FLOAT}
    assert casts(model) == [("latent", "latent_fp16"), ("y_fp16", "y")]
    x = noise(2, 3)
    answer = run_graph(rounded(model, FP16), {"latent": x})["y"]
    np.testing.assert_array_equal(answer, -x.astype(np.float16))


@pytest.mark.parametrize("dtype", [FP16, BF16])
def test_a_constant_is_rounded_to_nearest_under_its_own_name(dtype: ir.DataType) -> None:
    weight = noise(3, 3)
    model = retyped("b = MatMul(latent, w) y = Exp(b)", low="b", dtype=dtype, w=weight)

    rounded = constant(model.graph.initializers["w"])
    assert rounded is not None
    assert rounded.dtype == dtype.numpy()
    np.testing.assert_array_equal(rounded, weight.astype(dtype.numpy()))


def test_a_constant_that_both_sides_read_is_there_in_both_types() -> None:
    model = retyped("a = Mul(latent, w) b = Mul(a, w) y = Mul(b, w)", low="b", w=[0.1, 0.2, 0.3])

    found = {name: value.dtype for name, value in model.graph.initializers.items()}
    assert found == {"w": FLOAT, "w_fp16": FP16}
    low = [node for node in model.graph if node.outputs[0].name == "b"]
    assert [value.name for value in low[0].inputs] == ["a_fp16", "w_fp16"]  # type: ignore[union-attr]


def test_what_is_no_float_is_left_alone() -> None:
    model = retyped(
        "b = Reshape(latent, shape) c = Abs(b) y = Reshape(c, back)",
        low="b c",
        shape=[3, 2],
        back=[2, 3],
    )

    found = {name: value.dtype for name, value in model.graph.initializers.items()}
    assert found == {"shape": ir.DataType.INT64, "back": ir.DataType.INT64}


def test_other_copies_of_the_graph_are_left_as_they_were() -> None:
    model = graph(SIGNATURE, "b = MatMul(latent, w) y = Exp(b)", w=noise(3, 3))
    copy = model.clone()

    retype(copy.graph, set(copy.graph), FP16)

    assert set(types(model).values()) == {FLOAT}
    assert Counter(node.op_type for node in model.graph) == {"MatMul": 1, "Exp": 1}
    assert model.graph.initializers["w"].dtype == FLOAT
