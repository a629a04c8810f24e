"""Fold constants and clear away what the other passes left: onnxsim, or onnx_ir where it fails.

A Reshape whose result another Reshape alone reads goes first.

onnxsim runs without its fusions: they would turn the matmuls that precision and calibration look
for into Gemm nodes between reshapes. It keeps the values' names and drops the nodes' metadata, so
the modules are noted again by these names.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, DeduplicateInitializersPass

from ...graphs.scopes import modules_by_output, restore_modules
from ...graphs.weights import made_by, weight_bytes
from ..graph_pass import GraphPass, Sites

ONNXSIM_LIMIT = 1 << 30  # bytes of weights; it works on protobuf messages, which hold 2 GiB


def simplify(graph: ir.Graph) -> Sites:
    sites = Sites()
    model = ir.Model(graph, ir_version=10)
    before = [str(node.outputs[0].name) for node in graph]
    _merge_reshapes(graph)
    reason = _with_onnxsim(model)
    if reason is not None:
        DeduplicateInitializersPass()(model)
        CommonSubexpressionEliminationPass()(model)
        sites.skipped["onnxsim"] = f"{reason}; onnx_ir's clean-up ran in its place"
    after = {node.outputs[0].name for node in graph}
    sites.rewritten += [name for name in before if name not in after]
    return sites


def _merge_reshapes(graph: ir.Graph) -> None:
    for node in graph:
        if node.op_type != "Reshape" or node.inputs[0] is None:
            continue
        first = made_by(node.inputs[0], "Reshape")
        if first is None or len(first.outputs[0].uses()) != 1 or _copies_a_side(node):
            continue
        if first.outputs[0].is_graph_output():
            continue
        node.replace_input_with(0, first.inputs[0])
        graph.remove(first, safe=True)


def _copies_a_side(reshape: ir.Node) -> bool:
    """Whether a Reshape's shape is not written out, or has a 0, which is the input's side."""
    shape = reshape.inputs[1]
    if shape is None or shape.const_value is None:
        return True
    return bool((shape.const_value.numpy() == 0).any())


def _with_onnxsim(model: ir.Model) -> str | None:
    """Simplify with onnxsim, or leave the graph as it is and say why it could not."""
    if weight_bytes(model) > ONNXSIM_LIMIT:
        return "the weights do not fit the one message that onnxsim works on"
    try:
        import onnxsim
    except ImportError as error:
        return f"onnxsim cannot be imported ({error})"
    try:
        simplified, _ = onnxsim.simplify(ir.to_proto(model), perform_optimization=False)
    except (RuntimeError, ValueError) as error:
        return f"onnxsim failed ({str(error).splitlines()[0]})"
    modules = modules_by_output(model.graph)
    _transplant(ir.from_proto(simplified).graph, model.graph)
    restore_modules(model.graph, modules)
    return None


def _transplant(source: ir.Graph, graph: ir.Graph) -> None:
    """Replace all that is in ``graph``, but its inputs, with what is in ``source``."""
    graph.outputs.clear()
    graph.remove(list(graph), safe=True)
    graph.initializers.clear()
    for old, new in zip(source.inputs, graph.inputs, strict=True):
        old.replace_all_uses_with(new)
    outputs, nodes = list(source.outputs), list(source)
    source.outputs.clear()
    source.remove(nodes)
    for name in list(source.initializers):
        graph.register_initializer(source.initializers.pop(name))
    graph.extend(nodes)
    graph.outputs.extend(outputs)


SIMPLIFY = GraphPass("simplify", simplify, tolerance=1e-6)
