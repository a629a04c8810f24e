"""The twin of a graph in low precision: fp32 throughout, and every value rounded where it is made.

ONNX Runtime's CPU provider has few fp16 kernels and no bf16 ones: it computes an fp16 graph in
fp32 and leaves out the rounding between two nodes, and cannot open a bf16 graph. The twin answers
as a device does that rounds each operator's output once and sums in fp32 inside it. What lies
beyond the range becomes infinite there too.
"""

from __future__ import annotations

import onnx_ir as ir

from .weights import insert_behind

FLOAT = ir.DataType.FLOAT
MOVES = {"Concat", "Gather", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}


def rounded(model: ir.Model, dtype: ir.DataType) -> ir.Model:
    """The twin of a graph whose low-precision values are of type ``dtype``."""
    twin = model.clone()
    for value in twin.graph.initializers.values():
        if value.dtype == dtype:
            assert value.const_value is not None
            widened = value.const_value.numpy().astype(FLOAT.numpy())
            value.const_value = ir.tensor(widened, name=value.name)
            value.type = ir.TensorType(FLOAT)
    for node in list(twin.graph):
        for output in [output for output in node.outputs if output.dtype == dtype]:
            output.type = ir.TensorType(FLOAT)
            if node.op_type not in MOVES:
                _round(twin.graph, output, dtype)
        if node.op_type == "Cast" and node.outputs[0].dtype == FLOAT:
            node.attributes.add(ir.AttrInt64("to", FLOAT))
    return twin


def _round(graph: ir.Graph, value: ir.Value, dtype: ir.DataType) -> None:
    low = ir.node("Cast", [value], attributes={"to": dtype})
    back = ir.node("Cast", low.outputs, attributes={"to": FLOAT})
    for cast, kind in ((low, dtype), (back, FLOAT)):
        cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(kind), value.shape
    insert_behind(graph, value, [low, back])
    value.replace_all_uses_with(back.outputs[0], replace_graph_outputs=True)
    low.replace_input_with(0, value)
