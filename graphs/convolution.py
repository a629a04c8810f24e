"""Reading a convolution."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .weights import Weight, constant, dims, is_op


def is_depthwise(node: ir.Node) -> bool:
    """Whether a node convolves each channel by itself, over more than one tap."""
    if node.op_type != "Conv" or constant(node.inputs[1]) is None:
        return False
    channels, inputs, *kernel = dims(node.inputs[1])
    return inputs == 1 and max(kernel) > 1 and is_op(node, "Conv", group=channels)


def weight_and_bias(convolution: ir.Node) -> tuple[Weight | None, Weight | None]:
    """The weights of a convolution, its bias zeros where it has none; None where not constant."""
    weight = constant(convolution.inputs[1])
    if weight is None or len(convolution.inputs) > 2:
        return weight, constant(convolution.inputs[-1])
    return weight, np.zeros(len(weight), weight.dtype)
