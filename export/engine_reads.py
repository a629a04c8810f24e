"""How much a kernel takes of a tensor that it cuts, where the builder's list names it whole."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_ir as ir

from ..graphs.weights import dims
from .engines.layers import Layer

CUTS = ("Slice", "Split")
MOVES = ("Cast", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


def unread_bytes(layer: Layer, nodes: Mapping[str, ir.Node]) -> int:
    """Bytes of the tensors that a kernel names as inputs which none of its nodes takes.

    Args:
        layer: The kernel.
        nodes: Of the graph that the engine was built of, by name.
    """
    inside = {nodes[name] for name in layer.nodes if name in nodes}
    cut = {
        first
        for node in inside
        if node.op_type in CUTS
        and (first := node.inputs[0]) is not None
        and first.producer() not in inside
    }
    waiting = sorted((math.prod(dims(value)), taken(value, inside)) for value in cut)
    unread = 0
    for tensor in layer.inputs:
        size = math.prod(tensor.shape)
        found = next((pair for pair in waiting if pair[0] == size), None)
        if found is not None:
            waiting.remove(found)
            unread += tensor.bytes * (size - found[1]) // size
    return unread


def taken(value: ir.Value, inside: set[ir.Node]) -> int:
    """How many numbers of a value the nodes inside of a kernel take, at most all.

    Of what a node makes, that counts which nodes inside read; where none does, it is written.
    """
    size, count = math.prod(dims(value)), 0
    readers = [node for node in value.consumers() if node in inside]
    for node in readers:
        if node.op_type not in (*CUTS, *MOVES):
            return size
        read = [output for output in node.outputs if inside.intersection(output.consumers())]
        count += sum(taken(output, inside) for output in read or node.outputs)
    return min(size, count) if readers else size
