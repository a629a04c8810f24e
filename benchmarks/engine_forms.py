"""In how many kernels does TensorRT-RTX run a block, by the form in which the graph has it?

Blocks of PiT-S/2 and DiT-S/2 (256 tokens of 384 channels, batch 2, fp16) are written by hand in
several forms, four of each in a row, and built for compute capability 8.9, which needs no GPU. What
is counted is the second block: its kernels, and the bytes that they read and write, each tensor
that one names whole. Nothing is run, and the weights mean nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from record import record

from pitstop.export.engine_cost import built_kernels, by_block, cost_of
from pitstop.graphs.graph_file import read_graph
from pitstop.graphs.scopes import MODULE

BATCH, GRID, CHANNELS, HEAD = 2, 16, 384, 64
TOKENS = GRID * GRID
WINDOW = 8
ACROSS = GRID // WINDOW  # windows
INSIDE, WINDOWS = WINDOW * WINDOW, BATCH * ACROSS * ACROSS
ATTENTION = 256  # channels of PiT's attention; the others are the bridge's
BRIDGE = CHANNELS - ATTENTION
KERNEL = 5
BLOCKS, COUNTED = 4, "blocks.2"

Mixer = Callable[["Writer", str], str]
"""Nodes from a block's normed tokens to what is added to the residual."""


class Writer:
    """An ONNX graph that is written node by node; values are names."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.module = ""
        self._random = np.random.default_rng(0)

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"v{len(self.nodes)}_{index}" for index in range(outputs)]
        node = helper.make_node(kind, inputs, names, f"node_{len(self.nodes)}", **attributes)
        entry = node.metadata_props.add()
        entry.key, entry.value = MODULE, self.module
        self.nodes.append(node)
        return names[0] if outputs == 1 else names

    def weight(self, *shape: int, ones: bool = False, dtype: Any = np.float16) -> str:
        values = np.ones(shape) if ones else 0.05 * self._random.standard_normal(shape)
        return self._constant(values.astype(dtype))

    def whole(self, *numbers: int) -> str:
        return self._constant(np.array(numbers, dtype=np.int64))

    def scalar(self, number: float) -> str:
        return self._constant(np.array(number, dtype=np.float16))

    def _constant(self, values: Any) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def reshape(self, value: str, *shape: int) -> str:
        return str(self.op("Reshape", value, self.whole(*shape)))

    def transpose(self, value: str, *perm: int) -> str:
        return str(self.op("Transpose", value, perm=list(perm)))

    def cast(self, value: str, dtype: int) -> str:
        return str(self.op("Cast", value, to=dtype))

    def split(self, value: str, axis: int, *sizes: int) -> Any:
        return self.op("Split", value, self.whole(*sizes), outputs=len(sizes), axis=axis)

    def linear(self, value: str, inner: int, outer: int, *, bias: bool = True) -> str:
        out = self.op("MatMul", value, self.weight(inner, outer))
        return str(self.op("Add", out, self.weight(outer)) if bias else out)


@dataclass(frozen=True)
class Form:
    """A block's form.

    Attributes:
        mixer: Attention, and PiT's bridge.
        wide: Whether the residual stream is fp32, else fp16.
    """

    mixer: Mixer
    wide: bool = True


def write(form: Form, path: Path) -> None:
    """A graph of blocks in a form, whose modulations come in one by one."""
    writer, stream = Writer(), TensorProto.FLOAT if form.wide else TensorProto.FLOAT16
    told = [f"m{index}" for index in range(6 * BLOCKS)]
    tokens = [BATCH, TOKENS, CHANNELS]
    inputs = [helper.make_tensor_value_info("tokens", TensorProto.FLOAT, tokens)]
    inputs += [helper.make_tensor_value_info(name, stream, [BATCH, 1, CHANNELS]) for name in told]
    residual = writer.cast("tokens", stream)
    for index in range(BLOCKS):
        writer.module = f"blocks.{index}"
        residual = block(writer, form, residual, told[6 * index : 6 * index + 6])
    writer.module = ""
    out = writer.cast(residual, TensorProto.FLOAT)
    graph = helper.make_graph(
        writer.nodes,
        "blocks",
        inputs,
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, tokens)],
        writer.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(onnx.shape_inference.infer_shapes(model, strict_mode=True), path)


def block(writer: Writer, form: Form, residual: str, told: list[str]) -> str:
    for mixer, shift, scale, gate in ((form.mixer, *told[:3]), (mlp, *told[3:])):
        wide = residual if form.wide else writer.cast(residual, TensorProto.FLOAT)
        one = writer.weight(CHANNELS, ones=True, dtype=np.float32)
        normed = writer.op("LayerNormalization", wide, one, axis=-1, epsilon=1e-6)
        if not form.wide:
            normed = writer.cast(normed, TensorProto.FLOAT16)
        normed = writer.op("Add", writer.op("Mul", normed, scale), shift)
        if form.wide:
            normed = writer.cast(normed, TensorProto.FLOAT16)
        found = mixer(writer, normed)
        found = writer.cast(found, TensorProto.FLOAT) if form.wide else found
        residual = writer.op("Add", residual, writer.op("Mul", gate, found))
    return residual


def mlp(writer: Writer, value: str) -> str:
    value = writer.linear(value, CHANNELS, 4 * CHANNELS)
    cube = writer.op("Mul", writer.op("Mul", value, value), value)
    inner = writer.op("Add", value, writer.op("Mul", cube, writer.scalar(0.044715)))
    inner = writer.op("Tanh", writer.op("Mul", inner, writer.scalar(0.79788)))
    half = writer.op("Mul", value, writer.scalar(0.5))
    value = writer.op("Mul", half, writer.op("Add", inner, writer.scalar(1.0)))
    return writer.linear(value, 4 * CHANNELS, CHANNELS)


def attend(writer: Writer, query: str, key: str, value: str) -> str:
    """Decomposed, on [sequence, token, channel], the softmax in fp32."""
    scores = writer.op("MatMul", query, writer.transpose(key, 0, 2, 1))
    weights = writer.op("Softmax", writer.cast(scores, TensorProto.FLOAT), axis=-1)
    return str(writer.op("MatMul", writer.cast(weights, TensorProto.FLOAT16), value))


def rows(writer: Writer, value: str) -> str:
    """PiT with tokens in the grid's order, q, k and v of one matmul, and a convolution."""
    attention, bridge = writer.split(value, -1, ATTENTION, BRIDGE)
    qkv = writer.linear(attention, ATTENTION, 3 * ATTENTION)
    heads = ATTENTION // HEAD
    qkv = writer.reshape(qkv, BATCH, ACROSS, WINDOW, ACROSS, WINDOW, 3, heads, HEAD)
    qkv = writer.reshape(
        writer.transpose(qkv, 5, 0, 1, 3, 6, 2, 4, 7), 3, WINDOWS * heads, INSIDE, HEAD
    )
    parts = [writer.reshape(part, WINDOWS * heads, INSIDE, HEAD)
             for part in writer.split(qkv, 0, 1, 1, 1)]  # fmt: skip
    seen = writer.reshape(
        attend(writer, *parts), BATCH, ACROSS, ACROSS, heads, WINDOW, WINDOW, HEAD
    )
    seen = writer.reshape(writer.transpose(seen, 0, 1, 4, 2, 5, 3, 6), BATCH, TOKENS, ATTENTION)
    grid = writer.transpose(writer.reshape(bridge, BATCH, GRID, GRID, BRIDGE), 0, 3, 1, 2)
    grid = writer.transpose(convolve(writer, grid), 0, 2, 3, 1)
    joined = writer.op("Concat", seen, writer.reshape(grid, BATCH, TOKENS, BRIDGE), axis=-1)
    return writer.linear(joined, CHANNELS, CHANNELS)


def windows(writer: Writer, value: str) -> str:
    """PiT with tokens window by window: what the pass window_major makes."""
    attention, bridge = writer.split(value, -1, ATTENTION, BRIDGE)
    heads = ATTENTION // HEAD
    qkv = writer.linear(attention, ATTENTION, 3 * ATTENTION)
    qkv = writer.transpose(writer.reshape(qkv, WINDOWS, INSIDE, 3, heads, HEAD), 2, 0, 3, 1, 4)
    parts = [writer.reshape(part, WINDOWS * heads, INSIDE, HEAD)
             for part in writer.split(qkv, 0, 1, 1, 1)]  # fmt: skip
    seen = writer.reshape(attend(writer, *parts), WINDOWS, heads, INSIDE, HEAD)
    seen = writer.reshape(writer.transpose(seen, 0, 2, 1, 3), BATCH, TOKENS, ATTENTION)
    grid = writer.reshape(bridge, BATCH, ACROSS, ACROSS, WINDOW, WINDOW, BRIDGE)
    grid = writer.reshape(writer.transpose(grid, 0, 5, 1, 3, 2, 4), BATCH, BRIDGE, GRID, GRID)
    grid = writer.reshape(convolve(writer, grid), BATCH, BRIDGE, ACROSS, WINDOW, ACROSS, WINDOW)
    grid = writer.reshape(writer.transpose(grid, 0, 2, 4, 3, 5, 1), BATCH, TOKENS, BRIDGE)
    return writer.linear(writer.op("Concat", seen, grid, axis=-1), CHANNELS, CHANNELS)


def places(query_bias: bool, *, shifted: bool = True) -> Mixer:
    """PiT with tokens by their place inside a window, then by window.

    So each head of each window is a sequence with one stride, and nothing is moved before or after
    the attention. q, k, v and the bridge's channels come of one batch of four matmuls that read all
    channels (rows of zeros, and an identity), so the norm is one kernel. The bias of k adds the
    same to all scores of a query and goes; that of v goes into the projection's.
    """

    def mixer(writer: Writer, value: str) -> str:
        heads = ATTENTION // HEAD
        flat = writer.reshape(value, 1, INSIDE * WINDOWS, CHANNELS)
        made = writer.op("MatMul", flat, writer.weight(4, CHANNELS, ATTENTION))
        query, *others, bridge = writer.split(made, 0, 1, 1, 1, 1)
        if query_bias:
            query = writer.op("Add", query, writer.weight(ATTENTION))
        parts = [
            writer.transpose(writer.reshape(part, INSIDE, WINDOWS * heads, HEAD), 1, 0, 2)
            for part in (query, *others)
        ]
        seen = writer.transpose(attend(writer, *parts), 1, 0, 2)
        seen = writer.reshape(seen, INSIDE, WINDOWS, ATTENTION)
        bridge = writer.reshape(bridge, INSIDE, WINDOWS, ATTENTION)
        bridge = writer.op("Slice", bridge, writer.whole(0), writer.whole(BRIDGE), writer.whole(2))
        grid = writer.reshape(bridge, WINDOW, WINDOW, BATCH, ACROSS, ACROSS, BRIDGE)
        grid = writer.reshape(writer.transpose(grid, 2, 3, 0, 4, 1, 5), BATCH, GRID, GRID, BRIDGE)
        if shifted:
            grid = shifted_sums(writer, grid)
        else:
            grid = convolve(writer, writer.transpose(grid, 0, 3, 1, 2))
            grid = writer.transpose(grid, 0, 2, 3, 1)
        grid = writer.reshape(grid, BATCH, ACROSS, WINDOW, ACROSS, WINDOW, BRIDGE)
        grid = writer.reshape(writer.transpose(grid, 2, 4, 0, 1, 3, 5), INSIDE, WINDOWS, BRIDGE)
        joined = writer.op("Concat", seen, grid, axis=-1)
        return writer.reshape(writer.linear(joined, CHANNELS, CHANNELS), BATCH, TOKENS, CHANNELS)

    return mixer


def convolve(writer: Writer, grid: str) -> str:
    """The bridge's depthwise convolution on [batch, channel, row, column]."""
    return str(
        writer.op(
            "Conv",
            grid,
            writer.weight(BRIDGE, 1, KERNEL, KERNEL),
            writer.weight(BRIDGE),
            group=BRIDGE,
            pads=4 * [KERNEL // 2],
            kernel_shape=[KERNEL, KERNEL],
        )
    )


def shifted_sums(writer: Writer, grid: str) -> str:
    """The same on [batch, row, column, channel]: a sum of shifted grids, which is no operator."""
    edge = KERNEL // 2
    padded = writer.op("Pad", grid, writer.whole(0, edge, edge, 0, 0, edge, edge, 0))
    total = writer.weight(BRIDGE)
    for row in range(KERNEL):
        for column in range(KERNEL):
            ends = (writer.whole(row, column), writer.whole(row + GRID, column + GRID))
            seen = writer.op("Slice", padded, *ends, writer.whole(1, 2))
            total = writer.op("Add", total, writer.op("Mul", seen, writer.weight(BRIDGE)))
    return total


def whole_image(writer: Writer, value: str) -> str:
    """DiT, q, k and v of one matmul."""
    heads = CHANNELS // HEAD
    qkv = writer.linear(value, CHANNELS, 3 * CHANNELS)
    qkv = writer.transpose(writer.reshape(qkv, BATCH, TOKENS, 3, heads, HEAD), 2, 0, 3, 1, 4)
    parts = [writer.reshape(part, BATCH * heads, TOKENS, HEAD)
             for part in writer.split(qkv, 0, 1, 1, 1)]  # fmt: skip
    seen = writer.reshape(attend(writer, *parts), BATCH, heads, TOKENS, HEAD)
    seen = writer.reshape(writer.transpose(seen, 0, 2, 1, 3), BATCH, TOKENS, CHANNELS)
    return writer.linear(seen, CHANNELS, CHANNELS)


def tokens_first(query_bias: bool) -> Mixer:
    """DiT with tokens before the batch, and a batch of three matmuls, as `places`."""

    def mixer(writer: Writer, value: str) -> str:
        heads = CHANNELS // HEAD
        flat = writer.reshape(value, 1, TOKENS * BATCH, CHANNELS)
        made = writer.op("MatMul", flat, writer.weight(3, CHANNELS, CHANNELS))
        query, *others = writer.split(made, 0, 1, 1, 1)
        if query_bias:
            query = writer.op("Add", query, writer.weight(CHANNELS))
        parts = [
            writer.transpose(writer.reshape(part, TOKENS, BATCH * heads, HEAD), 1, 0, 2)
            for part in (query, *others)
        ]
        seen = writer.transpose(attend(writer, *parts), 1, 0, 2)
        return writer.linear(writer.reshape(seen, BATCH, TOKENS, CHANNELS), CHANNELS, CHANNELS)

    return mixer


FORMS = {
    "PiT, tokens by row": Form(rows),
    "PiT, tokens by row, residual in fp16": Form(rows, wide=False),
    "PiT, tokens by window": Form(windows),
    "PiT, tokens by place in a window, a batch of four, a convolution": Form(
        places(query_bias=True, shifted=False), wide=False
    ),
    "PiT, the same, shifted sums": Form(places(query_bias=True), wide=False),
    "PiT, the same, residual in fp32": Form(places(query_bias=True)),
    "PiT, the same, q without a bias": Form(places(query_bias=False), wide=False),
    "DiT, the image first": Form(whole_image),
    "DiT, the image first, residual in fp16": Form(whole_image, wide=False),
    "DiT, tokens first, a batch of three": Form(tokens_first(query_bias=True), wide=False),
    "DiT, the same, q without a bias": Form(tokens_first(query_bias=False), wide=False),
}


@click.command()
@click.option("--capability", default="8.9", show_default=True)
@click.option("--keep", is_flag=True, help="Write the figures to results/engine_forms.json.")
def main(capability: str, keep: bool) -> None:
    """Write, build, count, print."""
    figures = {}
    for name, form in FORMS.items():
        with tempfile.TemporaryDirectory() as folder:
            figures[name] = count(form, Path(folder), capability)
        click.echo(f"{name}: {figures[name]}")
    if keep:
        click.echo(record("engine_forms", {"capability": capability, "forms": figures}))


def count(form: Form, folder: Path, capability: str) -> dict[str, Any]:
    """The kernels of a block in a form, and the bytes that they read and write."""
    graph = folder / "blocks.onnx"
    write(form, graph)
    kernels = built_kernels(read_graph(graph), capability)
    cost = cost_of(by_block(kernels)[COUNTED])
    return {
        "kernels": cost.kernels,
        "activation_bytes": cost.activation_bytes,
        "names": [kernel.layer.name for kernel in by_block(kernels)[COUNTED]],
    }


if __name__ == "__main__":
    main()
