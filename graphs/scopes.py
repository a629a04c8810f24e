"""Which module of the network each node of a graph belongs to, as the exporter said it.

Its path, such as ``blocks.0.attn``, stands in the node's metadata from the tracing to the last
pass, and is saved with the graph; it is empty for the network itself. A node that takes the place
of another has its module. One that takes the place of several, or of none, has the innermost
module around all that read it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import onnx_ir as ir

MODULE = "pitstop.module"


def module_of(node: ir.Node) -> str | None:
    """The path of a node's module, or None in a graph that does not say."""
    return node.metadata_props.get(MODULE)


def put_into(node: ir.Node, module: str | None) -> None:
    """Note a node's module, where it is known."""
    if module is not None:
        node.metadata_props[MODULE] = module


def is_norm(module: str | None) -> bool:
    """Whether a module is a norm, by its own name at the end of its path."""
    return module is not None and "norm" in module.rpartition(".")[2]


def modules_by_output(graph: ir.Graph) -> dict[str, str]:
    """The modules of all nodes, by the names of their first outputs."""
    found = {str(node.outputs[0].name): module_of(node) for node in graph}
    return {name: module for name, module in found.items() if module is not None}


def restore_modules(graph: ir.Graph, modules: Mapping[str, str]) -> None:
    """Note again what `modules_by_output` found, where a library dropped it."""
    for node in graph:
        put_into(node, modules.get(str(node.outputs[0].name)))
    complete_modules(graph)


def complete_modules(graph: ir.Graph) -> None:
    """Give each node without a module that of its readers, where the others have one."""
    if not modules_by_output(graph):
        return
    for node in reversed(graph):
        if module_of(node) is None:
            users = [user for value in node.outputs for user in value.consumers()]
            put_into(node, _around([module_of(user) or "" for user in users]))


def _around(modules: list[str]) -> str:
    """The innermost module that holds all of them."""
    names = zip(*(module.split(".") for module in modules), strict=False)
    shared = itertools.takewhile(lambda at_one_depth: len(set(at_one_depth)) == 1, names)
    return ".".join(at_one_depth[0] for at_one_depth in shared)
