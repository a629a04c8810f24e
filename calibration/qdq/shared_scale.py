"""One scale for a whole weight, and what is left of each output channel's behind the matmul.

    scale_c = shared * factor_c,    x @ (q * scale) = (x @ (q * shared)) * factor

A builder may write the whole numbers that an int8 matmul sums in fp16 and scale each channel in the
next kernel. TensorRT-RTX 1.7 does, and the demo's sums reach four times the largest fp16 number
(benchmarks/int8_sums.py). A single scale is in the matmul, in fp32. No factor is below 1, so what
the matmul writes is never larger than what it wrote before it was quantized.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...graphs.weights import Weight, add_constant, insert_behind

SPAN = 2.0**15  # of a weight's scales: within it the factors are numbers of fp16


def share_scale(scale: Weight) -> tuple[Weight, Weight]:
    """The scale that all output channels share, a scalar, and the factor of each, at least 1.

    Args:
        scale: Of each channel. Those below the largest by more than `SPAN` become larger.
    """
    wide = scale.astype(np.float64)
    shared = np.maximum(wide.min(), wide.max() / SPAN).astype(scale.dtype)
    factor = np.maximum(wide / shared.astype(np.float64), 1.0).astype(scale.dtype)
    return np.asarray(shared), factor


def multiply_behind(graph: ir.Graph, node: ir.Node, name: str, factor: Weight) -> None:
    """Put the factors of the last axis behind a node; the product takes the name of its output."""
    output = node.outputs[0]
    uses = list(output.uses())
    product = ir.node("Mul", [output, add_constant(graph, name, factor)])
    insert_behind(graph, output, [product])
    for use in uses:
        use.node.replace_input_with(use.idx, product.outputs[0])
    product.outputs[0].name, output.name = output.name, f"{output.name}_unscaled"
    product.outputs[0].shape, product.outputs[0].type = output.shape, output.type
