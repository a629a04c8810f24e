"""Graphs of a bundle, read and written by the calibration."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx_ir as ir

from ..runtime.backend import SessionOptions
from ..runtime.backends import import_backend
from ..runtime.bundle.folder import GraphFile
from ..runtime.bundle.manifest import GraphSpec, TensorSpec
from ..runtime.session import Session

INLINE_LIMIT = 1 << 30  # bytes of weights; protobuf holds 2 GiB, and copies while it writes


def write_graph(model: ir.Model, folder: Path, path: str) -> GraphSpec:
    """Write a graph to ``folder / path``, big weights beside it, and describe it."""
    place = folder / path
    place.parent.mkdir(exist_ok=True)
    tensors = [value.const_value for value in model.graph.initializers.values()]
    weights = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    big = weights > INLINE_LIMIT
    if not big:  # else what a base has in a file beside it would be looked for in this folder
        ir.external_data.load_to_model(model)
    ir.save(model, place, external_data=f"{place.name}.data" if big else None)
    return GraphSpec(
        path=path,
        inputs=tuple(map(_tensor_spec, model.graph.inputs)),
        outputs=tuple(map(_tensor_spec, model.graph.outputs)),
        opset=model.opset_imports[""],
        nodes=dict(sorted(Counter(node.op_type for node in model.graph).items())),
        weight_bytes=weights,
    )


@contextlib.contextmanager
def opened(model: ir.Model, options: SessionOptions) -> Iterator[Session]:
    """A graph in ONNX Runtime, by way of a temporary file."""
    with tempfile.TemporaryDirectory() as folder:
        spec = write_graph(model, Path(folder), "graphs/graph.onnx")
        path = Path(folder) / spec.path
        session = import_backend("onnxruntime").open_graph(GraphFile(path, spec), options)
        try:
            yield session
        finally:
            session.close()


def with_outputs(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """A copy of a graph whose outputs are the values of these names."""
    copy = model.clone()
    values = {value.name: value for node in copy.graph for value in node.outputs}
    copy.graph.outputs[:] = [values[name] for name in names]
    return copy


def _tensor_spec(value: ir.Value) -> TensorSpec:
    assert value.name is not None
    assert value.shape is not None
    assert value.dtype is not None
    return TensorSpec(value.name, value.shape.numpy(), value.dtype.numpy().name)
