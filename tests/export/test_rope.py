"""A denoiser with RMSNorm, SwiGLU and RoPE through the passes, the split and the precisions."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
import torch
from bundle_helpers import toy_manifest
from low_helpers import types
from pass_helpers import ask_pair, check_shapes
from rope_helpers import (
    CHANNELS,
    DEPTH,
    GRID,
    PATCH,
    rope_feeds,
    rope_network,
    rope_traced,
)

from pitstop.calibration.qdq.placement import Placement, find_sites
from pitstop.evaluation.accuracy.block_outputs import find_streams
from pitstop.evaluation.accuracy.blocks import take_apart
from pitstop.evaluation.accuracy.torch_block_outputs import torch_flows
from pitstop.export.lowering.kept_fp32 import RULES, nodes_in_fp32
from pitstop.export.lowering.lower import LOW, lower
from pitstop.export.optimize import DENOISER, Optimized, choose_steps, modulations, optimize
from pitstop.graphs.blocks import name_blocks
from pitstop.graphs.graph_file import run_graph, with_outputs
from pitstop.graphs.scopes import is_norm, module_of
from pitstop.runtime.bundle.manifest import ModelSpec
from pitstop.runtime.distance import relative_l2

BLOCKS = [
    "x_embedder",
    *(f"blocks.{index}.{half}" for index in range(DEPTH) for half in ("attn", "mlp")),
    "final_layer",
]
BOTH = pytest.mark.parametrize("normed", [True, False], ids=["head norms", "no head norms"])


@functools.cache
def folded(normed: bool) -> Optimized:
    return optimize(rope_traced(normed), rope_feeds(), choose_steps("portable", ()))


def denoiser(normed: bool = True) -> ir.Model:
    return folded(normed).graphs[DENOISER]


@torch.inference_mode()
def answer(normed: bool) -> np.ndarray:
    inputs = (torch.from_numpy(array.copy()) for array in rope_feeds().values())
    prediction: np.ndarray = rope_network(normed)(*inputs).numpy()
    return prediction


@BOTH
def test_the_graphs_of_the_bundle_answer_as_pytorch(normed: bool) -> None:
    graphs = folded(normed).graphs
    assert list(graphs) == ["conditioner", DENOISER]

    found = ask_pair(graphs["conditioner"], graphs[DENOISER], rope_feeds())

    assert relative_l2(answer(normed), found) <= 1e-5
    check_shapes(graphs[DENOISER])


@BOTH
def test_its_attention_is_fused_and_its_scale_is_gone(normed: bool) -> None:
    reports = {report.name: report for report in folded(normed).reports}

    assert len(reports["fuse_attention"].rewritten) == DEPTH
    assert reports["fuse_attention"].skipped == {}
    assert Counter(node.op_type for node in denoiser(normed).graph)["Squeeze"] == 2 * 2 * DEPTH
    scaled = {name for name in denoiser(normed).graph.initializers if name.endswith("_scaled")}
    taker = "q_norm.weight" if normed else "qkv.weight"
    assert {f"blocks.{index}.attn.{taker}_scaled" for index in range(DEPTH)} <= scaled


@BOTH
def test_it_is_found_block_by_block(normed: bool) -> None:
    for model in (rope_traced(normed), denoiser(normed)):
        assert list(dict.fromkeys(name_blocks(model.graph).values())) == BLOCKS


@pytest.mark.parametrize("precision", LOW)
@BOTH
def test_its_norms_stay_in_fp32_and_its_linears_do_not(normed: bool, precision: str) -> None:
    graph = denoiser(normed).graph

    islands = nodes_in_fp32(graph, precision, RULES)

    norms = [node for node in graph if is_norm(module_of(node))]
    assert len(norms) == 7 * (2 * DEPTH + 1 + (2 * DEPTH if normed else 0))
    reasons = Counter(islands[node] for node in norms)
    assert reasons["norm: its mean is a sum over all channels"] >= len(norms) - 7
    lowered = [
        module_of(node) for node in graph if node.op_type == "MatMul" and node not in islands
    ]
    assert len(lowered) == 6 * DEPTH
    assert "final_layer.linear" not in lowered
    added = [node for node in graph if node.op_type == "Add" and node in islands]
    assert {"blocks.0", "blocks.1"} <= {module_of(node) for node in added}


@pytest.mark.parametrize("precision", LOW)
@BOTH
def test_it_stays_within_the_tolerance_of_a_lower_precision(normed: bool, precision: str) -> None:
    feeds = rope_feeds()
    modulation = modulations(folded(normed).graphs["conditioner"], feeds)
    calls = [{"latent": feeds["latent"], "modulation": modulation}]

    made = lower(denoiser(normed), LOW[precision], calls)

    assert 0 < made.report.relative_l2 <= LOW[precision].tolerance
    found = types(made.model)
    for node in made.model.graph:
        if is_norm(module_of(node)) and node.op_type != "Cast":
            assert found[str(node.outputs[0].name)] == ir.DataType.FLOAT


def test_between_its_blocks_flows_what_flows_in_pytorch() -> None:
    manifest = dataclasses.replace(
        toy_manifest(),
        model=ModelSpec("toy", {"patch_size": PATCH}, parameters=1, flops_per_call=1),
        latent_shape=(CHANNELS, GRID * PATCH, GRID * PATCH),
    )
    streams = find_streams(rope_traced().graph)

    [flow] = torch_flows(rope_network(), manifest, [rope_feeds()])  # type: ignore[arg-type]

    names = [str(value.name) for value in streams.values()]
    found = run_graph(with_outputs(rope_traced(), names), rope_feeds())
    assert list(flow.leaving) == list(streams) == BLOCKS
    for block, value in streams.items():
        assert relative_l2(flow.leaving[block], found[str(value.name)]) <= 1e-5


def test_it_comes_apart_between_its_blocks() -> None:
    apart = take_apart(denoiser())

    assert list(apart.left) == BLOCKS
    assert list(apart.fed) == BLOCKS[:-1]
    check_shapes(apart.model)


def test_its_linears_are_quantized_under_their_own_names() -> None:
    sites = [site.name for site in find_sites(denoiser().graph, Placement()).found]

    linears = ("attn.qkv", "attn.proj", "mlp.w12", "mlp.w3")
    assert sites == [f"blocks.{index}.{name}" for index in range(DEPTH) for name in linears]
