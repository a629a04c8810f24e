"""A graph on disk: written into a bundle and described, or run from a temporary file."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from .. import BundleError
from ..runtime.backend import SessionOptions
from ..runtime.backends import import_backend
from ..runtime.bundle.folder import GraphFile
from ..runtime.bundle.manifest import GraphSpec, TensorSpec
from ..runtime.session import Array, Session
from ..runtime.temporary import temporary_folder
from .weights import weight_bytes

CPU = SessionOptions(provider="CPUExecutionProvider")
INLINE_LIMIT = 1 << 30  # bytes of weights; protobuf holds 2 GiB, and copies while it writes


def write_graph(model: ir.Model, folder: Path, name: str) -> GraphSpec:
    """Write a graph into ``graphs/`` of a new bundle, big weights beside it, and describe it."""
    path = folder / "graphs" / f"{name}.onnx"
    path.parent.mkdir(exist_ok=True)
    big = weight_bytes(model) > INLINE_LIMIT
    if not big:  # else what was read from a file beside a graph would be looked for in this folder
        ir.external_data.load_to_model(model)
    ir.save(model, path, external_data=f"{name}.onnx.data" if big else None)
    return spec_of(model, path.relative_to(folder).as_posix())


def read_graph(path: Path) -> ir.Model:
    """Read a bundle's graph, whose weights may stand in files beside it.

    Raises:
        BundleError: It cannot be read, or names weights that are not beside it.
    """
    try:
        model = ir.load(path)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise BundleError(
            f"{path} cannot be read ({error})", "Copy the bundle again, or export it again"
        ) from error
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            _check_beside(path, str(value.const_value.location))
    return model


def _check_beside(path: Path, location: str) -> None:
    place = (path.parent / location).resolve()
    if place.parent != path.parent.resolve() or not place.is_file():
        raise BundleError(
            f"{path} has weights in {location}, which is no file beside it",
            "Do not use this bundle; get it from a source that you trust",
        )


def spec_of(model: ir.Model, path: str = "") -> GraphSpec:
    """What flows in and out of a graph that is, or is not yet, in a file."""
    return GraphSpec(
        path=path,
        inputs=tuple(map(_tensor_spec, model.graph.inputs)),
        outputs=tuple(map(_tensor_spec, model.graph.outputs)),
        opset=model.opset_imports[""],
        nodes=dict(sorted(Counter(node.op_type for node in model.graph).items())),
        weight_bytes=weight_bytes(model),
    )


def run_graph(model: ir.Model, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Run a graph once on ONNX Runtime's CPU provider: input names to arrays, output names too."""
    [answer] = run_calls(model, [feeds])
    return answer


def run_calls(model: ir.Model, calls: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
    """Run a graph as `run_graph` does, once for each of several feeds."""
    with opened(model, CPU) as session:
        return [session.run(feeds) for feeds in calls]


@contextlib.contextmanager
def opened(model: ir.Model, options: SessionOptions) -> Iterator[Session]:
    """A graph in ONNX Runtime, by way of a temporary file."""
    with temporary_folder() as folder:
        spec = write_graph(model, folder, "graph")
        graph = GraphFile(folder / spec.path, spec)
        session = import_backend("onnxruntime").open_graph(graph, options)
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
