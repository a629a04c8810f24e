"""A VAE's decoder in fp16: what stays in fp32, and what does so together.

Its norms and its softmax do. A convolution or linear beyond fp16's range does too, with all behind
it up to the next one: the sums of the residual stream grow towards the image, and in some VAEs,
such as SDXL's, they leave fp16.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from ...graphs.blocks import layer_name
from ...graphs.weights import is_constant
from ...runtime.decoder import INPUT
from ..graph_pass import Feeds
from ..lowering.kept_fp32 import SOFTMAX, Rule
from ..lowering.lower import LOW, Lowered, lower

WEIGHTED = {"Conv", "Gemm", "MatMul"}
NORMS = {"GroupNormalization", "InstanceNormalization"}


def lower_decoder(model: ir.Model, calls: Sequence[Feeds]) -> Lowered:
    """Write a decoder's graph in fp16.

    Args:
        model: The fp32 graph; it is left as it is.
        calls: Inputs on which overflow is looked for and the new graph is held against the old.
    """
    return lower(model, LOW["fp16"], calls, rules=RULES, name_blocks=name_parts)


def name_parts(graph: ir.Graph) -> Mapping[ir.Node, str]:
    """The part of every node: it begins at a convolution or linear, and is called as that is."""
    parts, part = {}, INPUT
    for node in graph:
        if node.op_type in WEIGHTED and is_constant(node.inputs[1]):
            part = layer_name(node)
        parts[node] = part
    return parts


def _norms(graph: ir.Graph) -> Iterator[ir.Node]:
    return (node for node in graph if node.op_type in NORMS)


RULES = (
    Rule("GroupNorm", "its mean and variance are sums over a share of the image", _norms),
    SOFTMAX,
)
