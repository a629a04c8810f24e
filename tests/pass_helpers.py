"""Graphs for the passes: given as ONNX text, or traced from a tiny model and held against it."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import torch
from model_helpers import filled

from pitstop.export.trace import trace
from pitstop.graphs.graph_file import run_graph
from pitstop.graphs.weights import constant, dims
from pitstop.models.checkpoint import build_model
from pitstop.models.denoiser import Denoiser, DenoiserConfig

Array = npt.NDArray[Any]


def graph(signature: str, body: str, **weights: object) -> ir.Model:
    """A graph from ONNX text with its shapes inferred.

    Args:
        signature: Such as ``(float[2, 3] x) => (float[2, 3] y)``.
        body: Nodes, one after the other.
        weights: Initializers by name; lists of floats become float32, of integers int64.
    """
    header = '<ir_version: 10, opset_import: ["": 18]> test '
    proto = onnx.parser.parse_model(f"{header}{signature} {{ {body} }}")
    for name, values in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(plain(values), name))
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    return ir.from_proto(inferred)


def plain(values: object) -> Array:
    array = np.asarray(values)
    return array.astype(np.float32) if array.dtype.kind == "f" else array.astype(np.int64)


def noise(*shape: int, seed: int = 0) -> Array:
    """Standard normal numbers, float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def as_text(model: ir.Model) -> str:
    """All of a graph, its weights too: to see whether anything changed."""
    return onnx.printer.to_text(ir.to_proto(model)) + repr(weights_of(model))


def weights_of(model: ir.Model) -> dict[str, list[Any]]:
    values = model.graph.initializers.items()
    return {
        name: array.tolist() for name, value in values if (array := constant(value)) is not None
    }


def weight(model: ir.Model, op_type: str, operand: int = 1, index: int = 0) -> Array:
    """The constant operand of the ``index``-th node of a type."""
    node = [node for node in model.graph if node.op_type == op_type][index]
    array = constant(node.inputs[operand])
    assert array is not None
    return array


def ops(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def weight_matmuls(model: ir.Model) -> int:
    """Matmuls by a constant: the linears, but not the two of each attention."""
    matmuls = [node for node in model.graph if node.op_type == "MatMul"]
    return sum(constant(node.inputs[1]) is not None for node in matmuls)


def transposes(model: ir.Model) -> list[tuple[int, ...]]:
    """The permutation of every Transpose, in order."""
    nodes = [node for node in model.graph if node.op_type == "Transpose"]
    return [tuple(node.attributes["perm"].as_ints()) for node in nodes]


@functools.cache
def network(config: DenoiserConfig) -> Denoiser:
    model: Denoiser = filled(build_model(config))
    return model


@functools.cache
def traced(config: DenoiserConfig, batch: int = 2) -> ir.Model:
    """The graph of `network`, traced once for all tests: they must not change it."""
    return trace(network(config), batch)


def feeds_for(config: DenoiserConfig, batch: int = 2) -> dict[str, Array]:
    """One call's inputs: noise, timesteps from last to first, and labels with the null class."""
    return {
        "latent": noise(batch, config.in_channels, *config.input_size),
        "timestep": np.linspace(999, 0, batch, dtype=np.float32),
        "label": np.arange(batch, dtype=np.int64)[::-1] % config.label_rows,
    }


@torch.inference_mode()
def ask_pytorch(config: DenoiserConfig, feeds: Mapping[str, Array]) -> Array:
    inputs = [torch.from_numpy(feeds[name].copy()) for name in ("latent", "timestep", "label")]
    answer: Array = network(config)(*inputs).numpy()
    return answer


def ask_pair(conditioner: ir.Model, denoiser: ir.Model, feeds: Mapping[str, Array]) -> Array:
    """What conditioner and denoiser answer together."""
    modulation = ask_conditioner(conditioner, feeds)
    return run_graph(denoiser, {"latent": feeds["latent"], "modulation": modulation})["prediction"]


def ask_conditioner(conditioner: ir.Model, feeds: Mapping[str, Array]) -> Array:
    """The modulations of every row, in calls of the conditioner's own size."""
    [rows] = dims(conditioner.graph.inputs[0])
    batch = len(feeds["label"])
    calls = [
        np.resize(np.arange(start, min(start + rows, batch)), rows)
        for start in range(0, batch, rows)
    ]
    made = [
        run_graph(conditioner, {name: feeds[name][call] for name in ("timestep", "label")})
        for call in calls
    ]
    return np.concatenate([answer["modulation"] for answer in made])[:batch]


def check_shapes(model: ir.Model) -> None:
    """See that the graph is valid ONNX and that no pass left a shape that is not so."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    noted = {value.name: value for value in proto.graph.value_info}
    del proto.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    for value in inferred.graph.value_info:
        pairs = zip(sizes(value), sizes(noted[value.name]), strict=False)  # none: not inferred
        assert all(true in {0, found} for true, found in pairs), value.name


def sizes(value: onnx.ValueInfoProto) -> list[int]:
    """The static shape of a value, 0 where a side is not known."""
    return [side.dim_value for side in value.type.tensor_type.shape.dim]
