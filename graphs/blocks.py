"""Which block of the network each node of a denoiser's graph belongs to.

A block begins at a LayerNormalization and ends before the next one. It goes by the name of the
weights in it: ``blocks.0.attn``, ``blocks.0.mlp``, ``final_layer``, and ``x_embedder`` before the
first. The norms of q and k stand inside an attention and share its name. Between the stages of an
EDT stand ``down_blocks.0`` and ``concat_blocks.0``; the way up counts to the block before it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping

import onnx_ir as ir

from .interface import LATENT

LAYER_NORM = "LayerNormalization"
MOVES = ("Transpose", "Gather", "Slice", "Reshape")  # nodes that compute nothing
BLOCK = re.compile(r"(\w+_)?blocks\.\d+")
OWNER = re.compile(r"(blocks\.\d+\.\w+|\w+_blocks\.\d+|\w+)\.")  # of a weight, in its name

NameBlocks = Callable[[ir.Graph], Mapping[ir.Node, str]]
"""From a graph to the block of each of its nodes."""


def trunk(graph: ir.Graph) -> list[ir.Node]:
    """The nodes that see the latent, in order; all others see timestep and label alone."""
    seen = {value for value in graph.inputs if value.name == LATENT}
    nodes = []
    for node in graph:
        if not seen.isdisjoint(node.inputs):
            nodes.append(node)
            seen.update(node.outputs)
    return nodes


def name_blocks(graph: ir.Graph) -> Mapping[ir.Node, str]:
    """The block of every node of the trunk."""
    segments: list[list[ir.Node]] = []
    for node in trunk(graph):
        if not segments or node.op_type == LAYER_NORM:
            segments.append([])
        segments[-1].append(node)
    return {node: _name(segment) for segment in segments for node in segment}


def moves_per_block(graph: ir.Graph) -> dict[str, float]:
    """How many nodes of each type in `MOVES` a block has, attention and MLP together, on average.

    Empty for a graph without blocks.
    """
    blocks = {node: BLOCK.match(name) for node, name in name_blocks(graph).items()}
    inside = {node: block[0] for node, block in blocks.items() if block is not None}
    depth = len(set(inside.values()))
    count = Counter(node.op_type for node in inside)
    return {move: round(count[move] / depth, 2) for move in MOVES if count[move]}


def _name(segment: list[ir.Node]) -> str:
    """The owner of the first weight with a path, or else the first value."""
    for value in (value for node in segment for value in node.inputs):
        if value is not None and value.is_initializer():
            owner = OWNER.match(str(value.name))
            if owner is not None:
                return owner[1]
    return str(segment[0].outputs[0].name)
