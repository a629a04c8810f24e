"""A chain of matmuls as an ONNX file, with its precision written in the graph as in a bundle's."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx

from ....runtime.bundle.manifest import GraphSpec, TensorSpec
from ....runtime.bundle.precision import FP32, INT8
from .chain import LINKS, Chain

OPSET = 19
CAST = {"bf16": (ml_dtypes.bfloat16, onnx.TensorProto.BFLOAT16),
        "fp16": (np.float16, onnx.TensorProto.FLOAT16)}  # fmt: skip
PRECISIONS = (FP32.name, *CAST, INT8.name)
INT8_SCALE = 0.03  # of values of about 1: 127 of it are four standard deviations


def write_chain(chain: Chain, precision: str, path: Path) -> GraphSpec:
    """Write the chain's graph, float32 x [row, width] to y of the same shape, to ``path``."""
    body = _int8_body() if precision == INT8.name else _body(CAST.get(precision))
    sides = (f"(float[{chain.rows}, {chain.width}] {name})" for name in "xy")
    header = f'<ir_version: 10, opset_import: ["": {OPSET}]>'
    model = onnx.parser.parse_model(f"{header} chain {' => '.join(sides)} {{ {body} }}")
    for name, weight in zip(("up", "down"), chain.draw_weights(), strict=True):
        model.graph.initializer.extend(_initializers(name, weight, precision))
    onnx.save(model, path)
    x, y = (TensorSpec(name, (chain.rows, chain.width), "float32") for name in "xy")
    return GraphSpec(path.name, (x,), (y,), OPSET, {"MatMul": 2 * LINKS}, 0)


def _body(cast: tuple[type, int] | None) -> str:
    """The matmuls, between two casts where there is one."""
    first, last = ("x", "y") if cast is None else ("x_low", "y_low")
    lines = [] if cast is None else [f"x_low = Cast<to = {cast[1]}>(x)"]
    for link in range(LINKS):
        before = first if link == 0 else f"v{link}"
        after = last if link == LINKS - 1 else f"v{link + 1}"
        lines += [f"h{link} = MatMul({before}, up)", f"{after} = MatMul(h{link}, down)"]
    lines += [] if cast is None else [f"y = Cast<to = {onnx.TensorProto.FLOAT}>(y_low)"]
    return "\n".join(lines)


def _int8_body() -> str:
    """The matmuls, each between Q/DQ pairs on both of its inputs."""
    lines = [f"{name} = DequantizeLinear({name}_q, {name}_scale)" for name in ("up", "down")]
    before = "x"
    for index in range(2 * LINKS):
        after = "y" if index == 2 * LINKS - 1 else f"v{index}"
        lines += [
            f"q{index} = QuantizeLinear({before}, scale, zero)",
            f"d{index} = DequantizeLinear(q{index}, scale, zero)",
            f"{after} = MatMul(d{index}, {('up', 'down')[index % 2]})",
        ]
        before = after
    return "\n".join(lines)


def _initializers(
    name: str, weight: np.ndarray[tuple[int, ...], np.dtype[np.float32]], precision: str
) -> list[onnx.TensorProto]:
    if precision != INT8.name:
        dtype = CAST[precision][0] if precision in CAST else np.float32
        return [onnx.numpy_helper.from_array(weight.astype(dtype), name)]
    scale = np.float32(np.abs(weight).max() / INT8.largest)
    named = {f"{name}_q": np.round(weight / scale).astype(np.int8), f"{name}_scale": scale}
    if name == "up":
        named |= {"scale": np.float32(INT8_SCALE), "zero": np.int8(0)}
    return [onnx.numpy_helper.from_array(np.asarray(value), key) for key, value in named.items()]
