"""Write a quantized graph: QuantizeLinear and DequantizeLinear at every site of a denoiser.

Symmetric, ``q = round(x / scale)`` clipped to the precision with ``scale = threshold / largest``;
weights are stored with one scale for each output channel; in an fp16 matmul it is in two parts
(`shared_scale`). The scales have the type of what they scale, fp16 in an fp16 graph, so that no
cast stands between a layer and its DequantizeLinear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ... import CalibrationError
from ...graphs.weights import Weight, insert_before, insert_behind
from ...runtime.bundle.precision import PRECISIONS, Precision
from .placement import Site
from .shared_scale import multiply_behind, share_scale


def quantize(
    base: ir.Model,
    weights: Mapping[str, ir.TensorProtocol],
    sites: Sequence[Site],
    thresholds: Mapping[str, float],
    precision: Precision,
    weight_precision: Precision,
) -> ir.Model:
    """A copy of a denoiser with Q/DQ at ``sites``.

    Args:
        base: The fp32 or fp16 graph, with the values' names of the fp32 one.
        weights: Of the fp32 graph, by name.
        sites: Where.
        thresholds: By the name of the activation.
        precision: What activations are quantized to.
        weight_precision: What weights are quantized to; it differs in the largest number alone.

    Raises:
        CalibrationError: The base graph has no such node.
    """
    model = base.clone()
    writer = _Writer(model.graph, precision, weight_precision)
    nodes = {str(node.outputs[0].name): node for node in model.graph}
    for site in sites:
        if site.node not in nodes:
            raise CalibrationError(
                f"The base graph has no node {site.node}, which makes {site.name}",
                "Export the bundle again, all its precisions together",
            )
    order = {name: index for index, name in enumerate(nodes)}
    for site in sorted(sites, key=lambda site: order[site.node]):
        node = nodes[site.node]
        writer.quantize_input(node, site.operand, thresholds[site.tensor])
        if site.weight is not None:
            array = weights[site.weight].numpy()
            writer.quantize_weight(node, site.weight, array, site.weight_axis)
    RemoveUnusedNodesPass()(model)
    return model


def scale_for(amax: npt.ArrayLike, dtype: np.dtype[Any], precision: Precision) -> Weight:
    """The scale of type ``dtype`` at which ``amax`` becomes the largest number of a precision."""
    stored = ir.DataType.from_numpy(dtype).name
    [smallest] = [one.smallest_scale for one in PRECISIONS.values() if one.dtype == stored]
    assert smallest is not None
    scale: Weight = np.maximum(np.asarray(amax) / precision.largest, smallest).astype(dtype)
    return scale


def quantize_weight(
    weight: Weight, axis: int, dtype: np.dtype[Any], precision: Precision
) -> tuple[Weight, Weight]:
    """What is stored of ``weight``, and the scale of each channel along ``axis``.

    Args:
        weight: As the exact graph has it.
        axis: That of the output channels.
        dtype: Of the scales.
        precision: Of what is stored.
    """
    scale = _channel_scales(weight, axis, dtype, precision)
    return _stored(weight, scale.astype(np.float32), axis, precision), scale


def _channel_scales(
    weight: Weight, axis: int, dtype: np.dtype[Any], precision: Precision
) -> Weight:
    others = tuple(other for other in range(weight.ndim) if other != axis)
    return scale_for(np.abs(weight).max(axis=others), dtype, precision)


def _stored(weight: Weight, scale: Weight, axis: int, precision: Precision) -> Weight:
    shape = [-1 if other == axis else 1 for other in range(weight.ndim)]
    nearest = precision.nearest(weight / scale.reshape(shape))
    stored: Weight = nearest.astype(ir.DataType[precision.dtype].numpy())
    return stored


class _Writer:
    """Inserts Q/DQ into a graph, once for each tensor."""

    def __init__(self, graph: ir.Graph, precision: Precision, weights: Precision) -> None:
        self._graph = graph
        self._precision = precision
        self._weight_precision = weights
        self._dtype = ir.DataType[precision.dtype]
        self._activations: dict[str, ir.Value] = {}
        self._weights: dict[str, ir.Value] = {}
        self._factors: dict[str, Weight] = {}

    def quantize_input(self, node: ir.Node, operand: int, threshold: float) -> None:
        value = node.inputs[operand]
        assert value is not None
        name = str(value.name)
        if name not in self._activations:
            self._activations[name] = self._through(value, threshold)
        node.replace_input_with(operand, self._activations[name])

    def quantize_weight(self, node: ir.Node, name: str, weight: Weight, axis: int) -> None:
        value = node.inputs[1]
        assert value is not None
        assert value.dtype is not None
        dtype, precision = value.dtype.numpy(), self._weight_precision
        shares = node.op_type == "MatMul" and value.dtype is ir.DataType.FLOAT16
        if name not in self._weights:
            if shares:
                scale, factor = share_scale(_channel_scales(weight, axis, dtype, precision))
                whole = scale.astype(np.float32) * factor.astype(np.float32)
                values = _stored(weight, whole, axis, precision)
                self._factors[name] = factor
            else:
                values, scale = quantize_weight(weight, axis, dtype, precision)
            self._weights[name] = self._dequantized(node, name, values, scale, axis)
        node.replace_input_with(1, self._weights[name])
        if shares:
            multiply_behind(self._graph, node, f"{name}_factor", self._factors[name])

    def _dequantized(
        self, node: ir.Node, name: str, values: Weight, scale: Weight, axis: int
    ) -> ir.Value:
        """What a weight is once it was quantized, in front of ``node``."""
        value = node.inputs[1]
        assert value is not None
        stored = [
            self._constant(f"{name}_{self._precision.name}", values),
            self._constant(f"{name}_scale", scale),
            self._constant(f"{name}_zero_point", np.zeros(scale.shape, values.dtype)),
        ]
        attributes = {"axis": axis} if scale.ndim else {}
        dequantize = ir.node("DequantizeLinear", stored, attributes=attributes)
        insert_before(self._graph, node, dequantize)
        return _describe(dequantize, f"{name}_dequantized", value)

    def _through(self, value: ir.Value, threshold: float) -> ir.Value:
        """A value as it is read once it was quantized."""
        assert value.dtype is not None
        scale = scale_for(threshold, value.dtype.numpy(), self._precision)
        scaled_by = [
            self._constant(f"{value.name}_scale", scale),
            self._constant(f"{value.name}_zero_point", np.zeros((), self._dtype.numpy())),
        ]
        quantized = ir.node("QuantizeLinear", [value, *scaled_by])
        low = _describe(quantized, f"{value.name}_{self._precision.name}", value)
        low.type = ir.TensorType(self._dtype)
        dequantized = ir.node("DequantizeLinear", [low, *scaled_by])
        insert_behind(self._graph, value, [quantized, dequantized])
        return _describe(dequantized, f"{value.name}_dequantized", value)

    def _constant(self, name: str, array: Weight) -> ir.Value:
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        value.shape, value.type = (
            ir.Shape(array.shape),
            ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        )
        self._graph.register_initializer(value)
        return value


def _describe(node: ir.Node, name: str, like: ir.Value) -> ir.Value:
    """Name the output of a node that leaves shape and type as they are."""
    output = node.outputs[0]
    output.name, output.shape, output.type = name, like.shape, like.type
    return output
