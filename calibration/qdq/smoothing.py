"""Move the size of loud channels from activations into weights (SmoothQuant, Xiao et al., 2023).

One scale for a whole tensor wastes int8 on a few loud channels. Dividing channel j of ``x`` by
``s_j`` and multiplying row j of the weight behind it leaves ``x @ W`` as it is. It costs nothing
where the division disappears into what makes ``x``, and that is exact in three places of a block:

* what is modulated, ``x = norm * (1 + scale) + shift``: both factors come from the denoiser's
  input ``modulation``, which is multiplied once by a constant;
* the attention's part of the projection's input: softmax is linear in v, so ``s`` goes into v's
  columns of the qkv weight and bias;
* the bridge's part of it, and the bridge's input: a depthwise kernel works on each channel alone.

The MLP's second linear has a GELU before it, which no factor passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ...graphs.interface import MODULATION
from ...graphs.weights import insert_behind
from .channels import Scalable, Span, find_scalable, width_of

STRENGTH = 0.5  # how much of a channel's size moves into a linear's weight
MOST = 64.0  # a factor is between this and its inverse

Array = npt.NDArray[np.float32]
Factors = Mapping[str, tuple[float, ...]]
"""For each smoothed tensor the divisor of each of its channels."""


@dataclass(frozen=True)
class Smoothed:
    """What smoothing changes in a denoiser.

    Attributes:
        weights: float32, the initializers that change, by name.
        modulation: float32 [1, chunk, channel], what the input is multiplied by, or None.
    """

    weights: Mapping[str, Array]
    modulation: Array | None


def choose_factors(graph: ir.Graph, amax_by_channel: Mapping[str, Array]) -> Factors:
    """The divisors for tensors whose largest absolute values, channel by channel, are known.

    ``s_j = max|x_j| ** a / max|W_j| ** (1 - a)``, scaled to a geometric mean of 1. A depthwise
    kernel has a scale for each channel anyway, so it takes the whole of it: a = 1.
    """
    return {
        found.tensor: tuple(_divisors(graph, found, amax_by_channel[found.tensor]).tolist())
        for found in find_scalable(graph)
        if found.tensor in amax_by_channel
    }


def why_not_smooth(graph: ir.Graph, factors: Factors) -> str | None:
    """Say which factors are not for this graph, or None where all are."""
    smoothed = {found.tensor for found in find_scalable(graph)}
    values = (value for node in graph for value in node.outputs if value.name in smoothed)
    widths = {str(value.name): width_of(value) for value in values}
    for name, given in factors.items():
        if name not in widths:
            return f"smoothing factors for {name}, which is not smoothed in this graph"
        if len(given) != widths[name]:
            return f"{len(given)} smoothing factors for {name}, which has {widths[name]} channels"
    return None


def smooth(graph: ir.Graph, factors: Factors) -> Smoothed:
    """What changes where the tensors' channels are divided by ``factors``."""
    changed: dict[str, Array] = {}
    scaled = [found for found in find_scalable(graph) if found.tensor in factors]
    modulation = _ones(graph) if any(found.chunks for found in scaled) else None
    chunks = _chunks(graph, modulation) if modulation is not None else []
    for found in scaled:
        divisor = np.array(factors[found.tensor], np.float32)
        for chunk in found.chunks:
            chunks[chunk] /= divisor
        _scale(graph, changed, found.makers, 1.0 / divisor)
        _scale(graph, changed, found.readers, divisor)
    return Smoothed(changed, modulation)


def apply_smoothing(model: ir.Model, smoothed: Smoothed) -> ir.Model:
    """A copy of a denoiser, fp32 or of low precision, with what `smooth` changed."""
    copy = model.clone()
    for name, array in smoothed.weights.items():
        value = copy.graph.initializers[name]
        assert value.dtype is not None
        value.const_value = ir.tensor(array.astype(value.dtype.numpy()), name=name)
    if smoothed.modulation is not None:
        _multiply_modulation(copy.graph, smoothed.modulation)
    return copy


def _divisors(graph: ir.Graph, found: Scalable, amax: Array) -> Array:
    divisors = np.ones(len(amax), np.float32)
    made = {c for span in found.makers for c in range(span.start, span.stop)}
    for span in found.readers:
        channels = [c for c in range(span.start, span.stop) if found.chunks or c in made]
        weight = _array(graph, span.weight)
        rows = np.abs(weight).reshape(len(weight), -1).max(axis=1)
        rows = rows[[span.first + channel - span.start for channel in channels]]
        strength = 1.0 if weight.ndim > 2 else STRENGTH
        alive = (amax[channels] > 0) & (rows > 0)
        if not alive.any():
            continue
        ratio = np.ones(len(channels))
        ratio[alive] = amax[channels][alive] ** strength / rows[alive] ** (1 - strength)
        ratio[alive] /= np.exp(np.log(ratio[alive]).mean())
        divisors[channels] = np.clip(ratio, 1 / MOST, MOST)
    return divisors


def _scale(
    graph: ir.Graph, changed: dict[str, Array], spans: Iterable[Span], factors: Array
) -> None:
    for span in spans:
        if span.weight not in changed:
            changed[span.weight] = _array(graph, span.weight).copy()
        array = np.moveaxis(changed[span.weight], span.axis, -1)
        array[..., span.first : span.first + span.stop - span.start] *= factors[
            span.start : span.stop
        ]


def _array(graph: ir.Graph, name: str) -> Array:
    constant = graph.initializers[name].const_value
    assert constant is not None
    array: Array = constant.numpy()
    return array


def _ones(graph: ir.Graph) -> Array:
    """For one row of the modulation."""
    shape = _modulation(graph).shape
    assert shape is not None
    return np.ones((1, *shape.numpy()[1:]), np.float32)


def _chunks(graph: ir.Graph, modulation: Array) -> list[Array]:
    """The chunks of a row as views of it, cut as the graph cuts its input."""
    [pieces] = _modulation(graph).consumers()
    axis = pieces.attributes.get_int("axis", 0)
    widths = [piece.shape.numpy()[axis] for piece in pieces.outputs if piece.shape is not None]
    return np.split(modulation, np.cumsum(widths)[:-1], axis)


def _modulation(graph: ir.Graph) -> ir.Value:
    return next(value for value in graph.inputs if value.name == MODULATION)


def _multiply_modulation(graph: ir.Graph, factors: Array) -> None:
    modulation = _modulation(graph)
    constant = ir.Value(
        name="smoothing",
        const_value=ir.tensor(factors, name="smoothing"),
        shape=ir.Shape(factors.shape),
        type=ir.TensorType(ir.DataType.FLOAT),
    )
    graph.register_initializer(constant)
    readers = list(modulation.uses())
    product = ir.node("Mul", [modulation, constant])
    output = product.outputs[0]
    output.name = f"{MODULATION}_smoothed"
    output.shape, output.type = modulation.shape, modulation.type
    for use in readers:
        use.node.replace_input_with(use.idx, output)
    insert_behind(graph, modulation, [product])
