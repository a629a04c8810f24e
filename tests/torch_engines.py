"""Engines that PyTorch plays on a GPU: their graph's nodes, on the given stream and addresses.

The engines' loop runs on real CUDA memory with them where TensorRT is not to be had.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import cupy
import numpy as np
import onnx
import torch
from made_up_cuda import ExecutionContextAllocationStrategy, MadeUpEngine
from onnx import numpy_helper
from torch.nn import functional

from pitstop.runtime.bundle.folder import GraphFile
from pitstop.runtime.bundle.manifest import TensorSpec

Values = dict[str, Any]
Attributes = Mapping[str, Any]

__all__ = ["ExecutionContextAllocationStrategy", "TorchEngine"]  # as a module of TensorRT's has it

DTYPES = {onnx.TensorProto.FLOAT: torch.float32, onnx.TensorProto.FLOAT16: torch.float16}


class TorchEngine(MadeUpEngine):
    """An engine of a graph, which takes part in captures as TensorRT's do."""

    def __init__(self, graph: GraphFile, *, capturable: bool | None = None) -> None:
        room = defaultdict(lambda: b"0" * self.device_memory_size_v2)
        nothing = SimpleNamespace(memory=room, calls=[], do=lambda work: work())
        super().__init__(graph.spec, nothing, capturable=capturable)  # type: ignore[arg-type]
        self.nodes = _Nodes(graph)

    def create_execution_context(self, strategy: int = 0) -> Any:
        context = super().create_execution_context(strategy)
        assert context is not None

        def execute(stream: int) -> bool:
            with torch.cuda.stream(torch.cuda.ExternalStream(stream)), torch.inference_mode():
                self._run(self.places)
            self.calls += 1
            return True

        context.execute_async_v3 = execute  # type: ignore[method-assign]
        return context

    def _run(self, places: Mapping[str, int]) -> None:
        fed = {tensor.name: at(places[tensor.name], tensor) for tensor in self.spec.inputs}
        found = self.nodes.run(fed)
        for tensor in self.spec.outputs:
            at(places[tensor.name], tensor).copy_(found[tensor.name])


def at(address: int, tensor: TensorSpec) -> torch.Tensor:
    """What lies at an address of the GPU."""
    dtype = np.dtype(tensor.dtype)
    size = math.prod(tensor.shape) * dtype.itemsize
    memory = cupy.cuda.UnownedMemory(address, size, None)
    pointer = cupy.cuda.MemoryPointer(memory, 0)
    return torch.as_tensor(cupy.ndarray(tensor.shape, dtype, pointer), device="cuda")


class _Nodes:
    """A graph's nodes, each one call of PyTorch's."""

    def __init__(self, graph: GraphFile) -> None:
        model = onnx.load(graph.path)
        folder = str(graph.path.parent)
        self.nodes = list(model.graph.node)
        self.outputs = [output.name for output in model.graph.output]
        self.hosted = {
            tensor.name: numpy_helper.to_array(tensor, folder) for tensor in model.graph.initializer
        }
        self.constants = {
            name: torch.from_numpy(array.copy()).cuda() for name, array in self.hosted.items()
        }

    def run(self, fed: Mapping[str, torch.Tensor]) -> Values:
        values: Values = {**self.constants, **fed, "": None}
        for node in self.nodes:
            attributes = {
                each.name: onnx.helper.get_attribute_value(each) for each in node.attribute
            }
            inputs = [
                self.hosted[name] if is_shape(node.op_type, index) else values[name]
                for index, name in enumerate(node.input)
            ]
            found = OPS[node.op_type](attributes, *inputs)
            outputs = found if isinstance(found, tuple) else (found,)
            values.update(zip(node.output, outputs, strict=True))
        return {name: values[name] for name in self.outputs}


def is_shape(op: str, index: int) -> bool:
    """Whether an input is numbers that the host must know."""
    return op in {"Reshape", "Split", "Unsqueeze"} and index == 1


def _split(attributes: Attributes, x: torch.Tensor, sizes: Any = None) -> tuple[torch.Tensor, ...]:
    axis = attributes.get("axis", 0)
    if sizes is None:
        return tuple(torch.chunk(x, attributes["num_outputs"], axis))
    return tuple(torch.split(x, [int(size) for size in sizes], axis))


def _norm(attributes: Attributes, x: torch.Tensor, scale: Any, bias: Any = None) -> torch.Tensor:
    shape = x.shape[attributes.get("axis", -1) :]
    return functional.layer_norm(x, shape, scale, bias, attributes.get("epsilon", 1e-5))


def _conv(attributes: Attributes, x: torch.Tensor, weight: Any, bias: Any = None) -> torch.Tensor:
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    padded = functional.pad(x, (left, right, top, bottom))
    strides, groups = attributes.get("strides", [1, 1]), attributes.get("group", 1)
    return functional.conv2d(padded, weight, bias, tuple(strides), groups=groups)


def _reshape(attributes: Attributes, x: torch.Tensor, shape: Any) -> torch.Tensor:
    sizes = [x.shape[axis] if size == 0 else int(size) for axis, size in enumerate(shape)]
    return x.reshape(sizes)


def _sum(attributes: Attributes, *terms: torch.Tensor) -> torch.Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


OPS: dict[str, Callable[..., Any]] = {
    "Add": lambda a, x, y: x + y,
    "Cast": lambda a, x: x.to(DTYPES[a["to"]]),
    "Concat": lambda a, *x: torch.cat(x, a["axis"]),
    "Conv": _conv,
    "Exp": lambda a, x: torch.exp(x),
    "Gather": lambda a, x, rows: torch.index_select(x, a.get("axis", 0), rows),
    "Identity": lambda a, x: x,
    "LayerNormalization": _norm,
    "MatMul": lambda a, x, y: x @ y,
    "Mul": lambda a, x, y: x * y,
    "Pow": lambda a, x, y: torch.pow(x, y),
    "Reshape": _reshape,
    "Softmax": lambda a, x: torch.softmax(x, a.get("axis", -1)),
    "Split": _split,
    "Sub": lambda a, x, y: x - y,
    "Sum": _sum,
    "Tanh": lambda a, x: torch.tanh(x),
    "Transpose": lambda a, x: x.permute(*a["perm"]),
}
