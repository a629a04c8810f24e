from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from bundle_helpers import one_line
from calibration_helpers import denoiser, feeds_of, sites_of, two_linears
from hypothesis import given
from hypothesis import strategies as st
from model_helpers import tiny_dit, tiny_pit
from pass_helpers import Array, as_text, check_shapes, graph, noise, ops, weights_of

from pitstop import CalibrationError
from pitstop.calibration.qdq.placement import Site
from pitstop.calibration.qdq.quantize import quantize, quantize_weight
from pitstop.calibration.recipe import Recipe
from pitstop.export.lowering.lower import LOW, lower
from pitstop.graphs.graph_file import run_graph, with_outputs
from pitstop.runtime.bundle.precision import INT8, PRECISIONS
from pitstop.runtime.distance import relative_l2

TWO = tiny_pit(depth=2)
FP16, FP32 = np.dtype(np.float16), np.dtype(np.float32)
X = noise(2, 16, seed=9)
QDQ = ("QuantizeLinear", "DequantizeLinear")


def quantized(
    model: ir.Model,
    sites: list[Site],
    threshold: float = 2.0,
    *,
    base: ir.Model | None = None,
    **thresholds: float,
) -> ir.Model:
    """The int8 graph of ``model``, or of ``base`` with its weights."""
    constants = {
        name: value.const_value
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
    }
    chosen = {site.tensor: threshold for site in sites} | thresholds
    return quantize(base or model, constants, sites, chosen, INT8, INT8)


def thresholds_of(model: ir.Model, sites: list[Site], feeds: dict[str, Array]) -> dict[str, float]:
    """The largest absolute value of each site's activation."""
    seen = run_graph(with_outputs(model, [site.tensor for site in sites]), feeds)
    return {name: float(np.abs(array).max()) for name, array in seen.items()}


def through_int8(x: Array, scale: Any) -> Array:
    """What is left of numbers that were int8."""
    rounded: Array = np.clip(np.round(x / scale), -128, 127) * scale
    return rounded


def weight_scale(weight: Array, axis: int) -> Array:
    others = tuple(other for other in range(weight.ndim) if other != axis)
    scale: Array = np.abs(weight).max(axis=others, keepdims=True) / 127
    return scale


def array_of(model: ir.Model, name: str) -> Array:
    constant = model.graph.initializers[name].const_value
    assert constant is not None
    return constant.numpy()


def test_a_quantized_linear_computes_what_int8_would() -> None:
    model = two_linears()
    [first, _] = sites_of(model)

    found = run_graph(quantized(model, [first], threshold=1.5), {"x": X})["prediction"]

    w = array_of(model, "first.weight")
    h = through_int8(np.maximum(X, 0), np.float32(1.5 / 127))
    a = h @ through_int8(w, weight_scale(w, axis=1)) + array_of(model, "first.bias")
    expected = a @ array_of(model, "second.weight") @ array_of(model, "last.weight")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert relative_l2(run_graph(model, {"x": X})["prediction"], found) > 1e-3


def test_a_quantized_depthwise_convolution_computes_what_int8_would() -> None:
    kernel, x = noise(4, 1, 3, 3, seed=1), noise(1, 4, 5, 5)
    model = graph(
        "(float[1, 4, 5, 5] x) => (float[1, 4, 5, 5] y)",
        """h = Relu(x)
        y = Conv<group = 4, pads = [1, 1, 1, 1]>(h, kernel, bias)""",
        kernel=kernel,
        bias=noise(4),
    )
    [site] = sites_of(model)

    found = run_graph(quantized(model, [site], threshold=1.0), {"x": x})["y"]

    padded = np.pad(
        through_int8(np.maximum(x, 0), np.float32(1 / 127)), [(0, 0)] * 2 + [(1, 1)] * 2
    )
    taps = through_int8(kernel, weight_scale(kernel, axis=0))[:, 0]
    expected = noise(4).reshape(1, 4, 1, 1) + sum(
        taps[:, row, column].reshape(1, 4, 1, 1) * padded[:, :, row : row + 5, column : column + 5]
        for row in range(3)
        for column in range(3)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_zero_points_are_zero_and_weights_are_stored_in_int8() -> None:
    model = two_linears()

    low = quantized(model, sites_of(model))

    constants = {name: array_of(low, name) for name in low.graph.initializers}
    assert {name: array.dtype.name for name, array in constants.items()} == {
        "first.bias": "float32",
        "last.weight": "float32",
        **{f"{name}.weight_int8": "int8" for name in ("first", "second")},
        **{f"{name}.weight_scale": "float32" for name in ("first", "second")},
        **{f"{name}.weight_zero_point": "int8" for name in ("first", "second")},
        **{f"{name}_scale": "float32" for name in ("h", "b")},
        **{f"{name}_zero_point": "int8" for name in ("h", "b")},
    }
    for name, array in constants.items():
        if name.endswith("zero_point"):
            assert not array.any()
    assert constants["first.weight_scale"].shape == (16,)
    assert constants["h_scale"].shape == ()


def test_neither_a_bias_nor_an_output_gets_a_quantizer() -> None:
    model = two_linears()

    low = quantized(model, sites_of(model))

    assert ops(low) - ops(model) == {"QuantizeLinear": 2, "DequantizeLinear": 4}
    for node in low.graph:
        operands = {value.name for value in node.inputs if value is not None}
        assert node.op_type not in QDQ or not operands & {"first.bias", "a", "c", "prediction"}


def test_a_tensor_that_two_layers_read_is_quantized_once() -> None:
    model = graph(
        "(float[2, 16] x) => (float[2, 16] y)",
        """h = Relu(x) a = MatMul(h, w) b = MatMul(h, w2)
        c = Add(a, b) d = Relu(h) e = Add(c, d) y = MatMul(e, last)""",
        **{name: noise(16, 16, seed=seed) for seed, name in enumerate(("w", "w2", "last"))},
    )

    low = quantized(model, sites_of(model))

    assert ops(low)["QuantizeLinear"] == 1
    relu = next(node for node in low.graph if node.outputs[0].name == "d")
    assert [value.name for value in relu.inputs if value] == ["h"]  # it reads what it read before


@pytest.mark.parametrize("backwards", [False, True])
def test_layers_that_share_a_weight_share_its_int8_in_whatever_order_they_come(
    backwards: bool,
) -> None:
    model = graph(
        "(float[2, 16] x) => (float[2, 16] y)",
        "a = MatMul(x, w) b = Relu(a) c = MatMul(b, w) y = MatMul(c, last)",
        w=noise(16, 16),
        last=noise(16, 16, seed=1),
    )
    sites = sites_of(model)

    low = quantized(model, sites[::-1] if backwards else sites)

    check_shapes(low)
    assert ops(low)["DequantizeLinear"] == 3
    assert as_text(low) == as_text(quantized(model, sites))


@given(seed=st.integers(0, 10**6), axis=st.integers(0, 1), dtype=st.sampled_from([FP16, FP32]))
def test_no_weight_is_further_from_its_int8_than_half_a_step(
    seed: int, axis: int, dtype: np.dtype[Any]
) -> None:
    weight = noise(5, 7, seed=seed)

    values, scale = quantize_weight(weight, axis, dtype, INT8)

    step = np.expand_dims(scale.astype(np.float32), 1 - axis)
    slack = 127 * 2.0**-11 if dtype == FP16 else 1e-4  # of the largest, where a scale is rounded
    assert (values.dtype, scale.dtype, scale.shape) == (np.int8, dtype, (weight.shape[axis],))
    assert (np.abs(values * step - weight) <= (0.5 + slack) * step).all()
    assert np.abs(values.astype(int)).max() == 127


@pytest.mark.parametrize("dtype", [FP16, FP32])
@given(seed=st.integers(0, 999), axis=st.integers(0, 1))
def test_no_sum_of_two_products_with_weights_of_7_bits_leaves_16_bits(
    seed: int, axis: int, dtype: np.dtype[Any]
) -> None:
    weight = noise(8, 6, seed=seed)
    unsigned = np.full((1, 8), 255)  # the largest that an int8 activation becomes

    values, _ = quantize_weight(weight, axis, dtype, Recipe(weight_bits=7).weight_precision)

    assert np.abs(values.astype(int)).max() == 63
    assert (saturating_matmul(unsigned, values) == unsigned @ values.astype(int)).all()


def test_weights_of_8_bits_leave_them() -> None:
    values, _ = quantize_weight(np.ones((8, 6), np.float32), 1, FP32, Recipe().weight_precision)
    unsigned = np.full((1, 8), 255)

    assert np.abs(values.astype(int)).max() == 127
    assert (saturating_matmul(unsigned, values) < unsigned @ values.astype(int)).all()


def saturating_matmul(unsigned: npt.NDArray[Any], signed: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """What VPMADDUBSW gives: pairs of products are cut off at 16 bits before they are summed."""
    products = unsigned[:, :, None] * signed[None].astype(int)
    pairs = products[:, ::2] + products[:, 1::2]
    total: npt.NDArray[Any] = np.clip(pairs, -(2**15), 2**15 - 1).sum(axis=1)
    return total


def test_a_channel_of_zeros_stays_one_and_a_faint_channel_keeps_its_levels() -> None:
    weight = noise(16, 16)
    weight[:, 3] = 0.0
    weight[:, 4] *= 1e-6

    values, scale = quantize_weight(weight, 1, FP32, INT8)

    assert scale[3] == PRECISIONS["fp32"].smallest_scale
    assert not values[:, 3].any()
    assert np.abs(values[:, 4].astype(int)).max() == 127
    low = quantized(two_linears(**{"first.weight": weight}), [sites_of(two_linears())[0]])
    assert np.isfinite(run_graph(low, {"x": X})["prediction"]).all()


def test_an_activation_that_was_always_zero_gives_zero_and_no_nan() -> None:
    model = two_linears()
    [first, _] = sites_of(model)

    low = quantized(model, [first], threshold=0.0)

    seen = run_graph(with_outputs(low, ["a"]), {"x": X})["a"]
    assert np.abs(seen).max() < 1e-12


def test_an_operand_without_a_weight_is_quantized_alone() -> None:
    model = denoiser(TWO)
    sites = [site for site in sites_of(model, attention=True) if site.weight is None]

    low = quantized(model, sites, threshold=3.0)

    assert ops(low) - ops(model) == {"QuantizeLinear": len(sites), "DequantizeLinear": len(sites)}
    check_shapes(low)


@pytest.mark.parametrize(
    ("config", "target"),
    [(TWO, "portable"), (tiny_dit(depth=2), "portable"), (tiny_dit(depth=2), "onnxruntime")],
    ids=["pit", "dit", "attention in one node"],
)
def test_a_whole_denoiser_is_valid_and_close_to_what_it_was(config: Any, target: str) -> None:
    model, attention = denoiser(config, target), target == "portable"
    sites, feeds = sites_of(model, attention=attention), feeds_of(model)

    low = quantized(model, sites, **thresholds_of(model, sites, feeds))

    if attention:
        check_shapes(low)
    assert [str(value) for value in low.graph.inputs] == [str(v) for v in model.graph.inputs]
    assert [str(value) for value in low.graph.outputs] == [str(v) for v in model.graph.outputs]
    expected, found = (run_graph(one, feeds)["prediction"] for one in (model, low))
    assert 1e-4 < relative_l2(expected, found) < 0.05
    assert not {site.weight for site in sites} & set(weights_of(low))


def test_on_an_fp16_graph_the_scales_are_fp16_and_no_cast_stands_before_a_layer() -> None:
    model = denoiser(TWO)
    sites, feeds = sites_of(model), feeds_of(model)
    base = lower(model, LOW["fp16"], [feeds]).model
    thresholds = thresholds_of(model, sites, feeds)

    low = quantized(model, sites, base=base, **thresholds)

    check_shapes(low)
    layers = {site.node for site in sites}
    for node in low.graph:
        if str(node.outputs[0].name).removesuffix("_unscaled") in layers and node.op_type != "Mul":
            made_by = [value.producer() for value in node.inputs[:2] if value is not None]
            assert [maker.op_type for maker in made_by if maker] == ["DequantizeLinear"] * 2
            scales = [maker.inputs[1] for maker in made_by if maker]
            assert {value.dtype for value in scales if value} == {node.inputs[0].dtype}  # type: ignore[union-attr]
            assert node.op_type != "MatMul" or node.outputs[0].dtype == ir.DataType.FLOAT16
    expected, found, exact = (
        run_graph(one, feeds)["prediction"]
        for one in (quantized(model, sites, **thresholds), low, model)
    )
    assert relative_l2(expected, found) < relative_l2(exact, found)


def test_the_given_model_is_left_as_it_was() -> None:
    model = two_linears()
    before = as_text(model)

    quantized(model, sites_of(model))

    assert as_text(model) == before


def test_a_base_without_the_layer_is_refused() -> None:
    model = two_linears()
    stranger = Site("somewhere", "h", "nowhere")

    with pytest.raises(CalibrationError) as caught:
        quantized(model, [stranger])

    assert one_line(caught.value) == (
        "The base graph has no node nowhere, which makes somewhere. Export the bundle again, "
        "all its precisions together."
    )
