"""The builder's list of kernels, read from a real build; a form that is not known is told."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx_ir as ir
import pytest
from pass_helpers import graph, noise
from tensorrt_helpers import import_trt

from pitstop.export.engine_cost import by_block, cost_of, kernels_of
from pitstop.export.engines.layers import Layer, Tensor, read_layers
from pitstop.export.engines.process import build_apart
from pitstop.graphs.graph_file import read_graph
from pitstop.runtime.builder import BuildRequest

LINE = (
    "Name: fc, LayerType: gemm, Inputs: [ { Name: x, Dimensions: [2,3], Strides: [3,1], "
    "StrideOrder: [1,0], Datatype: Half, Format: (Linear) Row major linear format }], "
    "Constants: [ { Name: w, Dimensions: [3,5], Strides: [5,1], StrideOrder: [1,0], "
    "Datatype: Int4, Format: (Linear) Row "
    "major linear format }], Outputs: [ { Name: y, Dimensions: [], Strides: [], StrideOrder: [], "
    "Datatype: Float, Format: (Linear) Row major linear format }], TacticName: t, StreamId: 0, "
    "Metadata: [ONNX Layer: node_a][ONNX Layer: node_b]"
)
SIGNAL = (
    "Name: s, LayerType: signal, Inputs: [], Constants: [], Outputs: [], TacticName: , "
    "StreamId: 0, EventId: 1, Metadata: "
)


@pytest.fixture(scope="module")
def layers(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Layer]:
    """Of the tiny PiT in fp16, for one Ada GPU."""
    import_trt()
    folder = tmp_path_factory.mktemp("engine")
    request = BuildRequest(
        "tensorrt-rtx",
        str(tiny_bundle / "graphs" / "denoiser.fp16.onnx"),
        str(folder / "engine.plan"),
        str(folder / "timing.cache"),
        str(folder / "layers.txt"),
        compute_capabilities=("8.9",),
    )
    build_apart(request, lambda name, done, steps: True)
    return read_layers((folder / "layers.txt").read_text())


def test_a_line_is_read_to_its_shapes_types_and_nodes() -> None:
    [layer, signal] = read_layers(f"Layers:\n{LINE}\n{SIGNAL}\n\nI/O Tensors:\n Name: x")

    assert (layer.name, layer.kind, layer.nodes) == ("fc", "gemm", ("node_a", "node_b"))
    assert layer.inputs == (Tensor("x", (2, 3), "Half"),)
    assert [tensor.bytes for tensor in (*layer.inputs, *layer.constants, *layer.outputs)] == [
        12, 8, 4
    ]  # fmt: skip
    assert (layer.activation_bytes, layer.constant_bytes) == (16, 8)
    assert (signal.kind, signal.inputs, signal.nodes) == ("signal", (), ())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "does not begin with 'Layers:'"),
        ("Kernels:\n" + LINE, "does not begin with 'Layers:'"),
        ("Layers:\n", "no kernels"),
        (f"Layers:\n{LINE.replace('LayerType', 'Type')}", "a form that is not known: Name: fc"),
        (f"Layers:\n{LINE.replace('Datatype: Half', 'Datatype: Quarter')}", "Quarter is a type"),
        (f"Layers:\n{LINE.replace('Dimensions: [2,3]', 'Shape: [2,3]')}", "a form that is not kno"),
    ],
)
def test_a_list_of_another_form_is_told(text: str, found: str) -> None:
    with pytest.raises(ValueError, match=found.replace("[", r"\[")):
        read_layers(text)


def test_each_kernel_of_a_real_engine_has_its_block_and_part(
    layers: list[Layer], tiny_bundle: Path
) -> None:
    kernels = kernels_of(layers, read_graph(tiny_bundle / "graphs" / "denoiser.fp16.onnx").graph)

    blocks = by_block(kernels)
    assert {"blocks.0", "blocks.1"} <= blocks.keys() <= {"", "blocks.0", "blocks.1"}
    for name in ("blocks.0", "blocks.1"):
        parts = {part for kernel in blocks[name] for part in kernel.part}
        assert {"norm1", "attn", "norm2", "mlp"} <= parts
    assert len(blocks[""]) <= 6  # what is before the first and after the last block


def test_the_flops_of_an_engine_are_those_of_its_matmuls_and_convolutions(
    layers: list[Layer], tiny_bundle: Path
) -> None:
    graph = read_graph(tiny_bundle / "graphs" / "denoiser.fp16.onnx").graph
    kernels = kernels_of(layers, graph)

    by_nodes = kernels_of(
        [Layer("all", "gemm", (), (), (), tuple(str(node.name) for node in graph))], graph
    )
    assert 0.9 * by_nodes[0].flops <= cost_of(kernels).flops <= by_nodes[0].flops


def test_a_sum_counts_launches_moves_and_bytes(layers: list[Layer], tiny_bundle: Path) -> None:
    kernels = kernels_of(layers, read_graph(tiny_bundle / "graphs" / "denoiser.fp16.onnx").graph)
    cost = cost_of(kernels)

    assert cost.kernels == len([layer for layer in layers if layer.kind not in ("signal", "wait")])
    assert 0 < cost.moves < cost.kernels
    assert cost.quantizations == 0
    assert cost.matmuls["Half"] > 0
    named = sum(layer.activation_bytes for layer in layers)
    assert cost.activation_bytes == named - sum(kernel.unread for kernel in kernels)
    assert cost_of([]) == dataclasses.replace(
        cost, kernels=0, moves=0, matmuls={}, activation_bytes=0, constant_bytes=0, flops=0
    )


HALF, INT8 = Tensor("h", (2, 3), "Half"), Tensor("q", (2, 3), "Int8")


def int8_matmul() -> ir.Graph:
    return graph(
        "(float[2, 16] x) => (float[2, 16] y)",
        "[product] z = MatMul(x, w) [scaled] y = Mul(z, factor)",
        w=noise(16, 16),
        factor=noise(16),
    ).graph


def test_a_matmul_that_the_next_kernel_names_too_is_counted_once() -> None:
    gemm = Layer("a", "gemm", (INT8,), (), (HALF,), ("product",))
    scaling = Layer("b", "kgen", (HALF,), (), (HALF,), ("product", "scaled"))

    for layers in ([gemm, scaling], [scaling, gemm]):
        kernels = {kernel.layer.name: kernel for kernel in kernels_of(layers, int8_matmul())}

        assert kernels["a"].flops == 2 * 2 * 16 * 16
        assert (kernels["b"].flops, kernels["b"].dtype) == (0, None)
        assert cost_of(list(kernels.values())).matmuls == {"Int8": 1}
    [alone] = kernels_of([scaling], int8_matmul())
    assert (alone.flops, alone.dtype) == (2 * 2 * 16 * 16, "Half")


@pytest.mark.parametrize(
    ("name", "quantizes", "moves"),
    [
        ("__myl_CastMulMinMaxRounCast_myl0_0", True, False),
        ("__myl_MulReshMinMaxRounCast_myl0_2", True, False),
        ("__myl_MulAddMulMinMaxRounCast_myl0_2", False, False),
        ("__myl_MulMinMaxRounCastReshTranConc_myl0_35", False, False),
        ("__myl_MulCast_myl0_3", False, False),
        ("__myl_ReshTranReshMove_myl0_27", False, True),
        ("node_MatMul_185_myl0_30", False, False),
    ],
)
def test_the_name_tells_what_only_quantizes_and_what_only_moves(
    name: str, quantizes: bool, moves: bool
) -> None:
    [kernel] = kernels_of([Layer(name, "kgen", (), (), (), ())], int8_matmul())

    assert (kernel.quantizes, kernel.moves) == (quantizes, moves)
