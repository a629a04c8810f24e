"""Which tensors get Q/DQ, and which not, with the reason.

TensorRT reads a quantized layer where all its inputs come from DequantizeLinear, and fuses a
residual Add into a Conv or GEMM whose other operand is quantized too. So a site is an operand of
such a node: activations have one scale for the tensor, weights one for each output channel, and no
bias or output is ever quantized.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from ... import CalibrationError
from ...graphs.blocks import layer_name
from ...graphs.weights import is_constant

SMALLEST_SIDE = 16  # of a weight that int8 kernels are made for
QUANTIZED = re.compile(r"Q[A-Z]|.*(Integer|Quantize|NBits)")  # QLinearMatMul, MatMulInteger, ...
FUSED_ATTENTION = ("MultiHeadAttention", "Attention")
# Their engines run an int8 depthwise convolution in two kernels, of which the first makes its input
# four times as large (benchmarks/engine_cost.py).
FLOAT_BRIDGES = ("tensorrt10", "tensorrt11", "tensorrt-rtx")


@dataclass(frozen=True)
class Placement:
    """What is quantized beside the linears.

    Attributes:
        bridge: The bridge's depthwise convolutions; None where it pays.
        attention: q, k, softmax and v, the operands of the attention's two matmuls.
    """

    bridge: bool | None = None
    attention: bool = False

    def settled(self, target: str) -> Placement:
        """The same with nothing left open, for a bundle's target."""
        bridge = target not in FLOAT_BRIDGES if self.bridge is None else self.bridge
        return dataclasses.replace(self, bridge=bridge)


@dataclass(frozen=True)
class Site:
    """An operand that gets Q/DQ.

    Attributes:
        name: Of the layer, e.g. ``blocks.0.attn.qkv``, and of its operand where it has two.
        tensor: The activation, by its name in the fp32 graph.
        node: The node that reads it, by the name of its first output.
        operand: Which of the node's inputs it is.
        weight: The initializer that is quantized beside it, or None.
        weight_axis: The weight's axis of output channels.
        channel_axis: The activation's axis of channels.
    """

    name: str
    tensor: str
    node: str
    operand: int = 0
    weight: str | None = None
    weight_axis: int = 1
    channel_axis: int = -1


@dataclass
class Sites:
    """All sites of a graph, and the layers that stay as they are."""

    found: list[Site] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def find_sites(graph: ir.Graph, placement: Placement) -> Sites:
    """Look at every layer of a denoiser.

    Args:
        graph: The fp32 denoiser's.
        placement: What is quantized; the bridge too where that is left open.

    Raises:
        CalibrationError: The graph is quantized already, or has nothing to quantize.
    """
    for node in graph:
        if QUANTIZED.match(node.op_type):
            raise CalibrationError(
                f"The denoiser's fp32 graph has {node.op_type} nodes already",
                "Calibrate a bundle as `pitstop export` wrote it",
            )
    sites = Sites()
    linears = [node for node in graph if _weight(node) is not None and node.op_type != "Conv"]
    for node in graph:
        if node.op_type == "Conv":
            _look_at_conv(graph, node, placement, sites)
        elif node in linears:
            _look_at_linear(node, node is linears[-1], sites)
        elif node.op_type == "MatMul" and placement.attention:
            sites.found += _attention_operands(node)
        elif node.op_type in FUSED_ATTENTION and placement.attention:
            sites.skipped[_output(node)] = f"its matmuls are inside one {node.op_type} node"
    sites.found += list(_residuals(graph, {site.node for site in sites.found if site.weight}))
    sites.found = _told_apart(sites.found)
    if not sites.found:
        raise CalibrationError(
            "The denoiser has no layer to quantize", "Use its fp16 graph, or a larger model"
        )
    return sites


def is_shifted(graph: ir.Graph) -> bool:
    """Whether the bridge is a sum over shifted grids, as the pass shift_taps writes it."""
    return any(node.op_type == "Pad" for node in graph)


def _look_at_conv(graph: ir.Graph, node: ir.Node, placement: Placement, sites: Sites) -> None:
    name, weight = layer_name(node), _weight(node)
    if node.inputs[0] in graph.inputs or weight is None:
        sites.skipped[name] = "the patch embedding stays as it is"
    elif placement.bridge is False:
        sites.skipped[name] = "the bridge is left out"
    else:
        sites.found.append(
            Site(name, _name(node, 0), _output(node), 0, str(weight.name), 0, channel_axis=1)
        )


def _look_at_linear(node: ir.Node, last: bool, sites: Sites) -> None:
    name, weight = layer_name(node), _weight(node)
    assert weight is not None
    assert weight.shape is not None
    if last:
        sites.skipped[name] = "the final layer stays as it is"
    elif node.op_type == "Gemm":
        sites.skipped[name] = "the conditioning stays as it is"
    elif batched := _batch_beside(node):
        sites.skipped[name] = batched
    elif min(weight.shape.numpy()) < SMALLEST_SIDE:
        sites.skipped[name] = f"a side of its weight is below {SMALLEST_SIDE}"
    else:
        sites.found.append(Site(name, _name(node, 0), _output(node), 0, str(weight.name)))


def _batch_beside(node: ir.Node) -> str:
    """Why a linear stays as it is that a batch of matmuls makes, or that reads what one reads.

    A batch has no scales of its own for each of its weights. And a norm would write its output in
    two types, for the batch and for an int8 matmul, whose bias is a kernel of its own beside it.
    """
    weight = _weight(node)
    if weight is not None and weight.shape is not None and len(weight.shape) > 2:
        return "its weights are a batch, which has no scale for each"
    flat = [user for user in _users(node.inputs[0]) if user.op_type == "Reshape"]
    beside = [weight for user in flat for reader in _users(user.outputs[0])
              if (weight := _weight(reader)) is not None]  # fmt: skip
    if any(weight.shape is not None and len(weight.shape) > 2 for weight in beside):
        return "a batch of matmuls reads the same, and stays as it is"
    return ""


def _users(value: ir.Value | None) -> list[ir.Node]:
    return [] if value is None else list(value.consumers())


def _attention_operands(node: ir.Node) -> Iterator[Site]:
    """q and k of the first matmul of an attention, softmax and v of the second.

    A modulated softmax (AMM) is an operand as it is multiplied with v.
    """
    left, right = node.inputs
    if left is None or right is None:
        return
    names = ("softmax", "v") if _is_softmax(left) else ("q", "k")
    for operand, name in enumerate(names):
        output = _output(node)
        yield Site(f"{output}.{name}", _name(node, operand), output, operand)


def _is_softmax(value: ir.Value) -> bool:
    """Whether a value is a softmax, or one that a constant modulates."""
    node = value.producer()
    if node is not None and node.op_type == "Mul" and is_constant(node.inputs[1]):
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return node is not None and node.op_type == "Softmax"


def _residuals(graph: ir.Graph, quantized: set[str]) -> Iterator[Site]:
    """The other operand of an Add that directly follows a quantized layer and its bias.

    In an adaLN block a gate stands between the layer and the Add, so there is no such Add; a
    bridge that is added rather than concatenated has one.
    """
    for node in graph:
        if node.op_type != "Add" or any(is_constant(value) for value in node.inputs):
            continue
        for operand, value in enumerate(node.inputs):
            if _layer_behind(value) in quantized:
                other = 1 - operand
                if _layer_behind(node.inputs[other]) not in quantized:
                    yield Site(
                        f"{_output(node)}.residual", _name(node, other), _output(node), other
                    )
                break


def _told_apart(sites: list[Site]) -> list[Site]:
    """The sites, with the node beside the name where layers share their weights and so the name."""
    count = Counter(site.name for site in sites)
    return [
        dataclasses.replace(site, name=f"{site.name} at {site.node}")
        if count[site.name] > 1
        else site
        for site in sites
    ]


def _layer_behind(value: ir.Value | None) -> str | None:
    """The layer that makes a value for one reader alone, through the Add of its bias."""
    node = None if value is None or len(value.uses()) > 1 else value.producer()
    if node is not None and node.op_type == "Add" and is_constant(node.inputs[1]):
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return None if node is None or node.op_type not in {"Conv", "MatMul"} else _output(node)


def _weight(node: ir.Node) -> ir.Value | None:
    """The constant second operand of a linear or a convolution."""
    if node.op_type not in {"MatMul", "Gemm", "Conv"}:
        return None
    value = node.inputs[1]
    return value if is_constant(value) else None


def _name(node: ir.Node, operand: int) -> str:
    value = node.inputs[operand]
    assert value is not None
    return str(value.name)


def _output(node: ir.Node) -> str:
    return str(node.outputs[0].name)
