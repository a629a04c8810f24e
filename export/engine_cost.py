"""What the kernels of an engine cost: where each belongs, what it moves, what it computes.

Launches and bytes are what a small batch costs on a GPU. They are counted here from the builder's
own list; nothing is measured.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ..graphs.scopes import module_of
from ..runtime.builder import BuildRequest
from ..runtime.temporary import temporary_folder
from .engine_reads import unread_bytes
from .engines.layers import BITS, Layer, read_layers
from .engines.process import build_apart

ORDERS = {"signal", "wait"}  # between streams: no kernels
GENERATED = "kgen"  # the kind of the kernels that the library writes itself
BLOCK = re.compile(r"^((?:\w+_)?blocks\.\d+)(?:\.(\w+))?")
MOVES = re.compile(r"^_*myl_(?:Tran|Resh|Move|Slic|Conc|Cast|Pad)+_myl")
"""The names of kernels that compute nothing: the library names one by the operators in it."""
QUANTIZES = re.compile(r"^_*myl_(?=\w*Roun)(?:Mul|Min|Max|Roun|Cast|Resh)+_myl")
"""The names of those that quantize and do nothing else."""


@dataclass(frozen=True)
class Kernel:
    """A kernel and its place in the network.

    Attributes:
        layer: As the builder lists it.
        block: What most of its nodes belong to, such as ``blocks.3``; empty outside of blocks.
        part: The modules of the block that it has nodes of, such as ``attn``.
        flops: Of its matmuls and convolutions, a multiply-add counted as two. A node that two
            kernels are made of counts for the one that the library did not generate.
        unread: Bytes of the tensors that it names and cuts, of which it takes a part alone.
    """

    layer: Layer
    block: str
    part: tuple[str, ...]
    flops: int
    unread: int = 0

    @property
    def activation_bytes(self) -> int:
        """What it reads and writes beside constants."""
        return self.layer.activation_bytes - self.unread

    @property
    def moves(self) -> bool:
        """Whether it only moves data."""
        return MOVES.match(self.layer.name) is not None

    @property
    def quantizes(self) -> bool:
        """Whether it only quantizes what another kernel wrote."""
        return QUANTIZES.match(self.layer.name) is not None

    @property
    def dtype(self) -> str | None:
        """The type in which it multiplies, the narrowest of those it reads; None without any."""
        if not self.flops or not self.layer.inputs:
            return None
        return min((tensor.dtype for tensor in self.layer.inputs), key=BITS.__getitem__)


@dataclass(frozen=True)
class Cost:
    """The sum of kernels.

    Attributes:
        kernels: How many are launched.
        moves: How many of them only move data.
        quantizations: How many only quantize.
        matmuls: How many multiply matrices or convolve, by the type in which they do.
        activation_bytes: What they read and write; of a tensor that one cuts, what it takes.
        constant_bytes: Weights and other constants that they read.
        flops: Of matmuls and convolutions.
    """

    kernels: int
    moves: int
    quantizations: int
    matmuls: Mapping[str, int]
    activation_bytes: int
    constant_bytes: int
    flops: int


def built_kernels(model: ir.Model, capability: str) -> list[Kernel]:
    """The kernels of the engine that TensorRT-RTX builds of a graph, which needs no GPU.

    Args:
        model: The graph.
        capability: Compute capability of the GPU that it is built for, such as ``8.9``.

    Raises:
        EngineError: The graph is refused.
        ValueError: The builder's list of kernels has another form than is known.
    """
    with temporary_folder() as folder:
        graph, layers = folder / "graph.onnx", folder / "layers.txt"
        ir.save(model, graph)
        request = BuildRequest(
            "tensorrt-rtx",
            str(graph),
            str(folder / "engine.plan"),
            str(folder / "timing.cache"),
            str(layers),
            compute_capabilities=(capability,),
        )
        build_apart(request, lambda name, done, steps: True)
        return kernels_of(read_layers(layers.read_text(encoding="utf-8")), model.graph)


def kernels_of(layers: Sequence[Layer], graph: ir.Graph) -> list[Kernel]:
    """The kernels of an engine that was built of ``graph``, in the order in which they run."""
    nodes = {str(node.name): node for node in graph}
    modules = {str(node.name): module_of(node) or "" for node in graph}
    flops = {str(node.name): node_flops(node) for node in graph}
    kernels = [layer for layer in layers if layer.kind not in ORDERS]
    computed = _where_computed(kernels)
    return [
        _kernel(
            layer,
            modules,
            sum(flops.get(node, 0) for node in layer.nodes if computed[node] == index),
            unread_bytes(layer, nodes),
        )
        for index, layer in enumerate(kernels)
    ]


def cost_of(kernels: Sequence[Kernel]) -> Cost:
    return Cost(
        kernels=len(kernels),
        moves=sum(kernel.moves for kernel in kernels),
        quantizations=sum(kernel.quantizes for kernel in kernels),
        matmuls=Counter(kernel.dtype for kernel in kernels if kernel.dtype is not None),
        activation_bytes=sum(kernel.activation_bytes for kernel in kernels),
        constant_bytes=sum(kernel.layer.constant_bytes for kernel in kernels),
        flops=sum(kernel.flops for kernel in kernels),
    )


def by_block(kernels: Sequence[Kernel]) -> dict[str, list[Kernel]]:
    """The kernels of each block; under the empty name those that belong to none."""
    found: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        found.setdefault(kernel.block, []).append(kernel)
    return found


def _where_computed(layers: Sequence[Layer]) -> dict[str, int]:
    """For each node the kernel that computes it: what scales a matmul's output names it too."""
    found: dict[str, int] = {}
    for generated in (False, True):
        for index, layer in enumerate(layers):
            if (layer.kind == GENERATED) is generated:
                for node in layer.nodes:
                    found.setdefault(node, index)
    return found


def _kernel(layer: Layer, modules: Mapping[str, str], flops: int, unread: int) -> Kernel:
    places = [found for node in layer.nodes if (found := BLOCK.match(modules.get(node, "")))]
    blocks = Counter(place[1] for place in places)
    return Kernel(
        layer,
        blocks.most_common(1)[0][0] if blocks else "",
        tuple(dict.fromkeys(place[2] for place in places if place[2])),
        flops,
        unread,
    )


def node_flops(node: ir.Node) -> int:
    """Of a MatMul or a Conv, by its shapes; 0 for others."""
    if node.op_type not in ("MatMul", "Conv"):
        return 0
    out, weight = _shape(node.outputs[0]), _shape(node.inputs[1])
    inner = weight[-2] if node.op_type == "MatMul" else math.prod(weight[1:])
    return 2 * math.prod(out) * inner


def _shape(value: ir.Value | None) -> list[int]:
    assert value is not None
    assert value.shape is not None
    return [side for side in value.shape if isinstance(side, int)]
