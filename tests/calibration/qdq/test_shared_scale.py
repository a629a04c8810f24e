"""An fp16 weight's one scale, so that no sum of int8 products has to fit in fp16 by itself."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from calibration_helpers import sites_of
from hypothesis import given
from hypothesis import strategies as st
from pass_helpers import Array, check_shapes, graph, noise, ops

from pitstop.calibration.qdq.quantize import quantize
from pitstop.calibration.qdq.shared_scale import SPAN, share_scale
from pitstop.export.lowering.lower import LOW, lower
from pitstop.graphs.graph_file import run_graph, with_outputs
from pitstop.runtime.bundle.precision import INT8

X = noise(2, 512, seed=9)


def linear(weight: Array, *, twice: bool = False) -> ir.Model:
    layers = "a = MatMul(h, w)" if not twice else "c = MatMul(h, w) d = Relu(c) a = MatMul(d, w)"
    rows, columns = weight.shape
    model = graph(
        f"(float[2, {rows}] x) => (float[2, {columns}] y)",
        f"h = Relu(x) {layers} b = Relu(a) y = MatMul(b, last)",
        w=weight,
        last=noise(columns, columns, seed=1),
    )
    model.opset_imports[""] = INT8.fp16_scales_opset
    return model


def int8_of(model: ir.Model, base: ir.Model | None = None) -> ir.Model:
    weights = {
        name: value.const_value
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
    }
    sites = sites_of(model)
    return quantize(base or model, weights, sites, {site.tensor: 4.0 for site in sites}, INT8, INT8)


def in_fp16(model: ir.Model) -> ir.Model:
    return lower(model, LOW["fp16"], [{"x": X[:, : _rows(model)]}], rules=()).model


def _rows(model: ir.Model) -> int:
    shape = model.graph.inputs[0].shape
    assert shape is not None
    return int(shape.numpy()[1])


def scales_of(model: ir.Model) -> list[Array]:
    constants = model.graph.initializers.items()
    return [
        value.const_value.numpy()
        for name, value in constants
        if name.endswith("w_scale") and value.const_value is not None
    ]


def test_what_an_int8_matmul_in_fp16_writes_fits_although_its_sums_do_not() -> None:
    weight = np.abs(noise(512, 32)) * np.geomspace(0.01, 1, 32, dtype=np.float32)
    x = np.full((2, 512), 4.0, np.float32)
    model = linear(weight)

    low = int8_of(model, in_fp16(model))

    written = with_outputs(low, ["a_unscaled", "a", "h_dequantized"])
    seen = run_graph(written, {"x": x})
    sums = 127 * 512 * np.abs(weight / np.abs(weight).max(axis=0) * 127).mean(axis=0)
    assert (sums > 65504).all()  # of int8 numbers
    assert (np.abs(seen["a_unscaled"]) <= np.abs(seen["a"])).all()
    np.testing.assert_allclose(seen["a"], x @ weight, rtol=2e-2)


def test_the_scales_of_fp16_matmuls_alone_are_shared() -> None:
    model = linear(noise(32, 16))

    low, exact = int8_of(model, in_fp16(model)), int8_of(model)

    assert [scale.shape for scale in scales_of(low)] == [()]
    assert [scale.shape for scale in scales_of(exact)] == [(16,)]
    assert ops(low)["Mul"] == 1
    assert "Mul" not in ops(exact)
    check_shapes(low)


def test_layers_that_share_a_weight_have_the_factors_each() -> None:
    weight = noise(16, 16)
    model = linear(weight, twice=True)

    low = int8_of(model, in_fp16(model))

    assert ops(low)["Mul"] == 2
    found, expected = (run_graph(one, {"x": X[:, :16]})["y"] for one in (low, int8_of(model)))
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.5)


@given(exponents=st.lists(st.floats(-14, 9), min_size=1, max_size=8))
def test_scale_and_factors_make_the_scales_again(exponents: list[float]) -> None:
    scale = (2.0 ** np.array(exponents)).astype(np.float16)

    shared, factor = share_scale(scale)

    assert (shared.dtype, shared.shape, factor.dtype) == (np.float16, (), np.float16)
    assert np.isfinite(factor).all()
    assert (factor >= 1).all()
    kept = scale >= scale.max() / SPAN
    made = shared.astype(np.float32) * factor.astype(np.float32)
    np.testing.assert_allclose(made[kept], scale[kept], rtol=2e-3)
    assert (made >= 0.998 * scale).all()  # the others hold more than they need


@pytest.mark.parametrize("faint", [0.0, 1e-7])
def test_a_faint_channel_beside_a_loud_one_stays_finite(faint: float) -> None:
    weight = noise(16, 16)
    weight[:, 3] *= faint
    weight[:, 4] *= 4000
    model = linear(weight)

    low = int8_of(model, in_fp16(model))

    seen = run_graph(with_outputs(low, ["a"]), {"x": X[:, :16] / 8})["a"]
    assert np.isfinite(seen).all()
    assert np.abs(seen[:, 3]).max() < 1e-2
