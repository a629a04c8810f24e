"""Change the type in which nodes of a graph compute, with casts where they meet the others.

Every value keeps its name. A cast is made once for a value and is called after it:
``add_3_fp16`` is ``add_3`` for the readers that compute in fp16.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import onnx_ir as ir

from .weights import add_constant, constant, insert_behind

FLOAT = ir.DataType.FLOAT
FP32_OPERANDS = {"Resize": (1, 2)}  # the region and the scales: float32 whatever is resized
SUFFIX = {FLOAT: "fp32", ir.DataType.FLOAT16: "fp16", ir.DataType.BFLOAT16: "bf16"}


def retype(graph: ir.Graph, nodes: Collection[ir.Node], dtype: ir.DataType) -> None:
    """Let those nodes of an fp32 graph compute in ``dtype``; inputs and outputs stay fp32."""
    _convert_constants(graph, nodes, dtype)
    for node in nodes:
        for value in node.outputs:
            if value.dtype == FLOAT:
                value.type = ir.TensorType(dtype)
    casts = _Casts(graph)
    for node in list(graph):
        wanted = dtype if node in nodes else FLOAT
        for index, operand in enumerate(node.inputs):
            if operand is None or _is_fp32(node, index):
                continue
            if operand.dtype in {FLOAT, dtype} - {wanted}:
                node.replace_input_with(index, casts.cast(operand, wanted))
    _cast_outputs(graph, casts, dtype)


def _convert_constants(graph: ir.Graph, nodes: Collection[ir.Node], dtype: ir.DataType) -> None:
    """Round the constants of those nodes; one that others read too then exists in both types."""
    for value in list(graph.initializers.values()):
        array = constant(value)
        uses = [use for use in value.uses() if use.node in nodes and not _is_fp32(*use)]
        if array is None or value.dtype != FLOAT or not uses:
            continue
        rounded = array.astype(dtype.numpy())
        if len(uses) < len(value.uses()):
            low = add_constant(graph, f"{value.name}_{SUFFIX[dtype]}", rounded)
            for node, index in uses:
                node.replace_input_with(index, low)
        else:
            value.const_value = ir.tensor(rounded, name=value.name)
            value.type = ir.TensorType(dtype)


def _is_fp32(node: ir.Node, index: int) -> bool:
    """Whether ONNX has that operand in float32 only."""
    return index in FP32_OPERANDS.get(node.op_type, ())


@dataclass
class _Casts:
    """The casts of a graph: one for each value and type."""

    graph: ir.Graph
    made: dict[tuple[ir.Value, ir.DataType], ir.Value] = field(default_factory=dict)

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        if (value, dtype) not in self.made:
            self.made[value, dtype] = self._insert(value, dtype)
        return self.made[value, dtype]

    def _insert(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        node = ir.node("Cast", [value], attributes={"to": dtype})
        [made] = node.outputs
        made.name = f"{value.name}_{SUFFIX[dtype]}"
        made.type, made.shape = ir.TensorType(dtype), value.shape
        insert_behind(self.graph, value, [node])
        return made


def _cast_outputs(graph: ir.Graph, casts: _Casts, dtype: ir.DataType) -> None:
    """Give outputs that became narrow in fp32 again, under their own names."""
    for index, value in enumerate(graph.outputs):
        if value.dtype == dtype:
            wide = casts.cast(value, FLOAT)
            value.name, wide.name = f"{value.name}_{SUFFIX[dtype]}", value.name
            graph.outputs[index] = wide
