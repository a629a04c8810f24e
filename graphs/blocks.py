"""Which block of the network each node of a denoiser's graph belongs to.

A block begins at a norm of the residual stream and ends before the next one. Such a norm stands
right inside a part of the network: ``blocks.0.norm1`` or ``final_layer.norm_final``, but not
``blocks.0.attn.q_norm``. A part with one norm is a block, as ``final_layer`` is and, between the
stages of an EDT, ``down_blocks.0``. One with more has a block for each, which is called after the
first module behind the norm: ``blocks.0.attn``, ``blocks.0.mlp``. Before the first norm is
``x_embedder``; what stands between two parts, as an EDT's way up does, counts to the first.

Bundles from before nodes told their module have a fallback here, and nowhere else: there a block
begins at a LayerNormalization, and blocks and layers go by the names of their weights.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from .interface import LATENT
from .scopes import is_norm, module_of
from .weights import is_constant

LAYER_NORM = "LayerNormalization"
MOVES = ("Transpose", "Gather", "Slice", "Reshape")  # nodes that compute nothing
BLOCK = re.compile(r"(\w+_)?blocks\.\d+")
MODULE = re.compile(r"(?P<part>[^\W\d]\w*(\.\d+)?)(\.(?P<child>[^\W\d]\w*))?")  # from the top
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
    nodes = trunk(graph)
    modules = [module for node in nodes if (module := module_of(node)) is not None]
    names = blocks_of(modules) if len(modules) == len(nodes) else _blocks_by_weights(nodes)
    return dict(zip(nodes, names, strict=True))


def blocks_of(modules: Sequence[str]) -> list[str]:
    """The block of each of these modules, which are given in the order in which they run."""
    norms: list[str] = []
    inside: dict[str, list[str]] = defaultdict(list)
    begun = ""
    for module in modules:
        begun = stream_norm(module) or begun
        norms.append(begun)
        inside[begun].append(module)
    count = Counter(map(_part, inside))
    names = {norm: _name(behind, count[_part(norm)] == 1) for norm, behind in inside.items()}
    return [names[norm] for norm in norms]


def stream_norm(module: str) -> str:
    """The norm of the residual stream that a module is or stands in, or nothing."""
    path = MODULE.match(module)
    return path[0] if path is not None and is_norm(path["child"]) else ""


def moves_per_block(graph: ir.Graph) -> dict[str, float]:
    """How many nodes of each type in `MOVES` a block has, attention and MLP together, on average.

    Empty for a graph without blocks.
    """
    blocks = {node: BLOCK.match(name) for node, name in name_blocks(graph).items()}
    inside = {node: block[0] for node, block in blocks.items() if block is not None}
    depth = len(set(inside.values()))
    count = Counter(node.op_type for node in inside)
    return {move: round(count[move] / depth, 2) for move in MOVES if count[move]}


def layer_name(node: ir.Node) -> str:
    """What a checkpoint calls a linear or a convolution."""
    return module_of(node) or _layer_by_weights(node)


def _part(module: str) -> str:
    """The part of the network that a module stands in."""
    path = MODULE.match(module)
    return "" if path is None else path["part"]


def _name(modules: Sequence[str], alone: bool) -> str:
    """What a block is called by its modules, where it is alone in its part and where not."""
    paths = [path for module in modules if (path := MODULE.match(module)) is not None]
    part = paths[0]["part"] if paths else ""
    children = [path["child"] for path in paths if path["part"] == part and path["child"]]
    if alone or not children:
        return part
    others = [child for child in children if not is_norm(child)]
    return f"{part}.{(others or children)[0]}"


def _blocks_by_weights(nodes: Sequence[ir.Node]) -> list[str]:
    """The names of blocks where no node has a module."""
    segments: list[list[ir.Node]] = []
    for node in nodes:
        if not segments or node.op_type == LAYER_NORM:
            segments.append([])
        segments[-1].append(node)
    return [name for segment in segments for name in [_owner(segment)] * len(segment)]


def _owner(segment: Sequence[ir.Node]) -> str:
    """The owner of the first weight with a path, or else the first value."""
    for value in (value for node in segment for value in node.inputs):
        if value is not None and value.is_initializer():
            owner = OWNER.match(str(value.name))
            if owner is not None:
                return owner[1]
    return str(segment[0].outputs[0].name)


def _layer_by_weights(node: ir.Node) -> str:
    """The layer of a node without a module: the owner of a weight or bias, or else its output."""
    users = [use for use in node.outputs[0].consumers() if use.op_type == "Add"]
    operands = [value for reader in [node, *users] for value in reader.inputs]
    for name in [str(value.name) for value in operands if value is not None and is_constant(value)]:
        if found := re.match(r"(.+)\.(weight|bias)", name):
            return found[1]
    return str(node.outputs[0].name)
