"""The two matmuls around a softmax, which every pass over attention looks for first."""

from __future__ import annotations

import onnx_ir as ir

from .weights import constant, made_by, sole_user


def matmuls_around(softmax: ir.Node) -> tuple[ir.Node, ir.Node] | None:
    """The MatMul of q with k, before a bias is added, and the one of the weights with v.

    Between the softmax and v may stand a constant that the weights are multiplied by (AMM). None
    where either is another node, or where two nodes read what the softmax makes.
    """
    scores = softmax.inputs[0]
    biased = made_by(scores, "Add")
    product = made_by(biased.inputs[0] if biased is not None else scores, "MatMul")
    mixed = sole_user(softmax.outputs[0])
    if mixed is not None and mixed.op_type == "Mul" and constant(mixed.inputs[1]) is not None:
        mixed = sole_user(mixed.outputs[0])
    if product is None or mixed is None or mixed.op_type != "MatMul":
        return None
    return product, mixed
