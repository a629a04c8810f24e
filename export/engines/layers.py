"""The kernels of an engine, as its builder lists them where it is asked for every detail.

The list is text that TensorRT and TensorRT-RTX write into their log when a build ends, a kernel a
line: its name and kind, the tensors that it reads, its constants, what it writes, and the ONNX
nodes that it is made of.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...runtime.devices.engine_build import LAYERS

LAYER = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: (?P<inputs>\[.*?\]), "
    r"Constants: (?P<constants>\[.*?\]), Outputs: (?P<outputs>\[.*?\]), TacticName: "
    r"(?P<tactic>.*?), StreamId: \d+(?:, EventId: \d+)?, Metadata: ?(?P<metadata>.*)$"
)
TENSOR = re.compile(
    r"\{ Name: (?P<name>.*?), Dimensions: \[(?P<shape>[\d,]*)\], .*?Datatype: (?P<dtype>\w+)"
)
LONGEST = 2**31  # of a tensor's sides
NODE = re.compile(r"\[ONNX Layer: (.*?)\]")
BITS = {
    "Float": 32, "Half": 16, "BFloat16": 16, "Int8": 8, "FP8": 8, "Int32": 32, "Int64": 64,
    "Bool": 8, "UInt8": 8, "Int4": 4, "FP4": 4, "E8M0": 8,
}  # fmt: skip
"""Of a number, by the library's name of its type."""


@dataclass(frozen=True)
class Tensor:
    """What a kernel reads or writes.

    Attributes:
        name: The library's.
        shape: As the kernel sees it.
        dtype: A key of `BITS`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """Of the whole tensor, of which a kernel may read a part."""
        size = BITS[self.dtype]
        for side in self.shape:
            size *= side
        return -(-size // 8)


@dataclass(frozen=True)
class Layer:
    """A kernel.

    Attributes:
        name: The library's.
        kind: As the library sorts it: ``gemm``, ``kgen``, ``correlation``, ``runtime_fusion``, ...
        inputs: What it reads; a tensor that it reads twice is there twice.
        constants: Weights and other constants.
        outputs: What it writes.
        nodes: The names of the ONNX nodes that it is made of.
    """

    name: str
    kind: str
    inputs: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    nodes: tuple[str, ...]

    @property
    def activation_bytes(self) -> int:
        """What it reads and writes beside constants."""
        return sum(tensor.bytes for tensor in (*self.inputs, *self.outputs))

    @property
    def constant_bytes(self) -> int:
        return sum(tensor.bytes for tensor in self.constants)


def read_layers(text: str) -> list[Layer]:
    """The kernels in a builder's list, in the order in which they run.

    Raises:
        ValueError: It is no such list, or one of another form than is known.
    """
    head, *lines = text.splitlines() or [""]
    if head != LAYERS:
        raise ValueError(f"the list of kernels does not begin with {LAYERS!r}")
    layers = []
    for line in lines:
        if not line.startswith("Name: "):
            break
        found = LAYER.match(line)
        if found is None:
            raise ValueError(f"a kernel is written in a form that is not known: {line[:200]}")
        layers.append(
            Layer(
                found["name"],
                found["kind"],
                _tensors(found["inputs"]),
                _tensors(found["constants"]),
                _tensors(found["outputs"]),
                tuple(NODE.findall(found["metadata"])),
            )
        )
    if not layers:
        raise ValueError("the list has no kernels")
    return layers


def _tensors(text: str) -> tuple[Tensor, ...]:
    tensors = tuple(
        Tensor(found["name"], tuple(int(s) for s in found["shape"].split(",") if s), found["dtype"])
        for found in TENSOR.finditer(text)
    )
    if len(tensors) != text.count("Datatype: "):
        raise ValueError(f"tensors are written in a form that is not known: {text[:200]}")
    if wrong := [tensor for tensor in tensors if not all(0 < s <= LONGEST for s in tensor.shape)]:
        raise ValueError(f"{wrong[0].name[:80]} has a side that no tensor has")
    if unknown := {tensor.dtype for tensor in tensors} - BITS.keys():
        raise ValueError(f"{', '.join(sorted(unknown))} is a type that is not known")
    return tensors
