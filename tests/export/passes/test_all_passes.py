"""All passes and the split, for any config: the pair of graphs against PyTorch itself."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from model_helpers import pit_configs, tiny_dit, tiny_pit
from pass_helpers import (
    Array,
    ask_pair,
    ask_pytorch,
    check_shapes,
    feeds_for,
    network,
    ops,
    traced,
    transposes,
    weight_matmuls,
)

from pitstop.export import pipeline
from pitstop.export import split as splitting
from pitstop.export.graph_pass import PassBroken, apply_all
from pitstop.export.optimize import STEP_NAMES, Optimized, choose_steps, optimize
from pitstop.export.parity import FP32_TOLERANCE
from pitstop.export.passes import (
    PASSES,
    fold_bridge,
    fuse_attention,
    simplify,
    window_major,
)
from pitstop.graphs.graph_file import run_graph
from pitstop.models.checkpoint import Checkpoint, save_checkpoint
from pitstop.models.denoiser import DenoiserConfig
from pitstop.models.pit import BridgeConfig, PccaConfig, PitConfig, PswaConfig
from pitstop.runtime.distance import relative_l2

ALL = PccaConfig("const", (1.0,))
PORTABLE = choose_steps("portable", ())


def run_all(config: DenoiserConfig, batch: int = 2, target: str = "portable") -> Optimized:
    feeds = feeds_for(config, batch)
    return optimize(traced(config, batch), feeds, choose_steps(target, ()))


def ask(folded: Optimized, feeds: Mapping[str, Array]) -> Array:
    """What the graphs answer, two or one."""
    graphs = folded.graphs
    if "conditioner" not in graphs:
        return run_graph(graphs["denoiser.fp32"], feeds)["prediction"]
    return ask_pair(graphs["conditioner"], graphs["denoiser.fp32"], feeds)


def check(config: DenoiserConfig, batch: int, target: str = "portable") -> None:
    """Fold and split a model of that config, and hold the pair against PyTorch."""
    folded = run_all(config, batch, target)
    conditioner, denoiser = folded.graphs["conditioner"], folded.graphs["denoiser.fp32"]
    feeds = feeds_for(config, batch)

    assert relative_l2(ask_pytorch(config, feeds), ask(folded, feeds)) <= FP32_TOLERANCE
    assert weight_matmuls(denoiser) == 4 * config.depth + 1 + _batches(folded)
    if "window_major" in choose_steps(target, ()):
        assert not {window_major.PARTITION, window_major.REVERSE} & set(transposes(denoiser))
    assert not {"Gemm", "Gather", "AveragePool", "BatchNormalization"} & set(ops(denoiser))
    for part in (conditioner, denoiser):
        check_shapes(part)


def _batches(folded: Optimized) -> int:
    """Blocks whose q, k and v are made by two matmuls instead of one."""
    return sum(len(step.rewritten) for step in folded.reports if step.name == "batch_projections")


def window(size: int = 4, **fields: Any) -> PswaConfig:
    return PswaConfig(window_size=size, **fields)


CORNERS = {
    "ratio 1, so no bridge": (tiny_pit(depth=2, pcca=ALL), 2, "portable"),
    "window = grid": (tiny_pit(depth=1, pswa=window(8)), 1, "portable"),
    "windows of one token": (tiny_pit(depth=1, pswa=window(1)), 3, "portable"),
    "the rotation, projected": (
        tiny_pit(depth=3, pswa=window(split="projected"), pcca=PccaConfig("rotate", (0.5,))),
        2,
        "onnxruntime",
    ),
    "a sum, a high-pass, a norm": (
        tiny_pit(
            depth=2,
            pcca=ALL,
            pswa=window(
                merge="add_proj", bridge=BridgeConfig("pool_dw", 9, norm="bn", highpass=True)
            ),
        ),
        8,
        "portable",
    ),
    "a bias too large for the exporter": (
        tiny_pit(
            input_size=(16, 32),
            patch_size=1,
            depth=2,
            pswa=window(16, rel_pos_bias=True, qk_norm=True),
            global_layers=(1,),
        ),
        1,
        "onnxruntime",
    ),
    "channels of one head": (tiny_pit(depth=1, num_heads=32), 2, "portable"),
    "for engines, five images": (tiny_pit(depth=2, pswa=window(4)), 5, "tensorrt-rtx"),
    "for engines, windows of two sizes": (
        tiny_pit(depth=3, pswa=window(4), global_layers=(1,)),
        2,
        "tensorrt-rtx",
    ),
    "for engines, the rotation": (
        tiny_pit(depth=2, pcca=PccaConfig("rotate", (0.5,))),
        3,
        "tensorrt-rtx",
    ),
    "for engines, a wide bridge": (
        tiny_pit(depth=2, num_heads=4, pcca=PccaConfig("const", (0.25,))),
        2,
        "tensorrt-rtx",
    ),
    "dit": (tiny_dit(depth=2), 2, "portable"),
    "dit with ONNX Runtime's attention": (tiny_dit(depth=2, input_size=(8, 16)), 5, "onnxruntime"),
}


def test_for_engines_every_block_is_rewritten_by_every_pass() -> None:
    folded = run_all(SMALL, target="tensorrt-rtx")

    counts = {step.name: len(step.rewritten) for step in folded.reports}
    blocks = SMALL.depth
    assert counts["place_major"] == counts["batch_projections"] == counts["shift_taps"] == blocks
    assert counts["row_gates"] == 2 * blocks
    assert counts["merge_moves"] == 2 * blocks + 1  # the bridge in and out, and the image
    assert not any(step.skipped for step in folded.reports)


@pytest.mark.parametrize("name", CORNERS)
def test_the_pair_answers_as_pytorch_in_the_corners(name: str) -> None:
    check(*CORNERS[name])


def draws(count: int) -> Any:
    """Hypothesis without shrinking and without memory: each draw costs a trace."""
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


TARGETS = st.sampled_from(["portable", "onnxruntime", "tensorrt-rtx"])


@given(config=pit_configs(), batch=st.integers(1, 8), target=TARGETS)
@draws(8)
def test_the_pair_answers_as_pytorch_for_some_configs(
    config: PitConfig, batch: int, target: str
) -> None:
    check(config, batch, target)


@pytest.mark.slow
@given(config=pit_configs(), batch=st.integers(1, 8), target=TARGETS)
@draws(100)
def test_the_pair_answers_as_pytorch_for_any_config(
    config: PitConfig, batch: int, target: str
) -> None:
    check(config, batch, target)


# PiT-S in all but its width: four stages of depth, six heads, windows of 8, a VAE's latent.
SMALL = PitConfig(hidden_size=48, depth=4, num_heads=6, num_classes=10)


def test_a_block_of_pit_s_is_four_linears_two_matmuls_and_one_convolution() -> None:
    denoiser = run_all(SMALL).graphs["denoiser.fp32"]
    edges = Counter(MatMul=1, Conv=1, Transpose=2, Reshape=4, Split=1)

    blocks = ops(denoiser) - edges

    assert weight_matmuls(denoiser) == 4 * SMALL.depth + 1
    assert {name: blocks[name] / SMALL.depth for name in sorted({*edges, "Softmax", "Concat"})} == {
        "Concat": 1,
        "Conv": 1,
        "MatMul": 4 + 2,
        "Reshape": 8,
        "Softmax": 1,
        "Split": 2,
        "Transpose": 6,
    }
    assert not {"Slice", "Squeeze", "Gather", "Sigmoid", "Gemm", "Unsqueeze"} & set(blocks)


def test_the_reports_hold_the_counts_of_every_step_one_after_the_other() -> None:
    reports = run_all(SMALL).reports

    assert [report.name for report in reports] == PORTABLE
    for earlier, later in itertools.pairwise(reports):
        assert later.nodes_before == earlier.nodes_after
    assert reports[0].nodes_before["Conv"] == 1 + 2 * SMALL.depth
    assert reports[0].nodes_after["Conv"] == 1 + SMALL.depth
    assert reports[1].nodes_before["Slice"] == 3 * SMALL.depth
    assert reports[-1].weight_bytes_after <= 0.70 * reports[0].weight_bytes_before
    assert all(not report.skipped for report in reports)


def test_all_passes_a_second_time_change_nothing() -> None:
    passes = [graph_pass for graph_pass in PASSES if graph_pass.name in PORTABLE]
    feeds = feeds_for(SMALL)
    once, _ = apply_all(passes, traced(SMALL), feeds)

    twice, reports = apply_all(passes, once, feeds)

    assert [report.rewritten for report in reports] == [()] * len(passes)
    assert ops(twice) == ops(once)


# Every pass has something to do in it.
BUSY = tiny_pit(
    depth=2,
    pswa=window(rel_pos_bias=True, bridge=BridgeConfig(norm="bn", highpass=True)),
    pcca=PccaConfig("const", (0.5,)),
    global_layers=(1,),
)


@pytest.mark.parametrize("target", ["portable", "onnxruntime", "tensorrt-rtx"])
@pytest.mark.parametrize("left_out", STEP_NAMES)
def test_no_pass_needs_another_to_be_right(left_out: str, target: str) -> None:
    feeds = feeds_for(BUSY)

    folded = optimize(traced(BUSY), feeds, choose_steps(target, [left_out]))

    assert relative_l2(ask_pytorch(BUSY, feeds), ask(folded, feeds)) <= FP32_TOLERANCE


def test_blocks_that_share_their_weights_are_folded_each_by_itself() -> None:
    """As in a model that repeats a block: the second uses the initializers of the first."""
    config = tiny_pit(depth=2, pcca=PccaConfig("const", (0.5,)))
    shared = traced(config).clone()
    linears = [node for node in shared.graph if node.op_type in {"MatMul", "Conv"}]
    weighted = [node for node in linears if node.inputs[1] in shared.graph.initializers.values()]
    convolutions = [node for node in weighted if node.op_type == "Conv"][1:]  # not the patches
    matmuls = [node for node in weighted if node.op_type == "MatMul"]
    for first, second in [
        (convolutions[0], convolutions[2]),
        (convolutions[1], convolutions[3]),
        *zip(matmuls[:4], matmuls[4:8], strict=True),
    ]:
        for index, value in enumerate(first.inputs[1:], start=1):
            second.replace_input_with(index, value)
    feeds = feeds_for(config)
    expected = run_graph(shared, feeds)["prediction"]

    folded = optimize(shared, feeds, PORTABLE)

    found = ask(folded, feeds)
    assert relative_l2(expected, found) <= FP32_TOLERANCE
    assert relative_l2(ask_pytorch(config, feeds), found) > 0.01  # it is another model
    assert [len(report.rewritten) for report in folded.reports[:3]] == [4, 8, 2]


def forget(*arguments: object, **keywords: object) -> None:
    """In the place of a step that edits the graph."""


def wrong_rows(self: fold_bridge.Projection, graph: ir.Graph, weight: Any) -> None:
    value = fold_bridge.add_constant(graph, "wrong", np.roll(weight, 1, axis=0))
    self.matmul.replace_input_with(1, value)


def no_order(self: window_major.Layout) -> Any:
    return np.arange(self.tokens)


def scale_all(graph: ir.Graph, node: ir.Node, index: int, factor: float, columns: object) -> None:
    array = fuse_attention.constant(node.inputs[index])
    assert array is not None
    value = fuse_attention.add_constant(graph, "wrong", array * np.float32(factor))
    node.replace_input_with(index, value)


def no_ones(piece: ir.Value, weight: Any, bias: Any) -> splitting.Chunk:
    chunk = CHUNK(piece, weight, bias)
    return splitting.Chunk(chunk.value, chunk.weight, bias)


def spoil(source: ir.Graph, graph: ir.Graph) -> None:
    value = next(v for v in source.initializers.values() if v.name == "pos_embed_windows")
    array = fold_bridge.constant(value)
    assert array is not None
    value.const_value = ir.tensor(array * np.float32(1.01), name=value.name)
    TRANSPLANT(source, graph)


CHUNK = splitting._chunk
TRANSPLANT = simplify._transplant
MUTANTS = {
    "a bias is forgotten": ("fold_bridge", fold_bridge.Projection, "add_bias", forget),
    "rows are mixed up": ("fold_bridge", fold_bridge.Projection, "set_weight", wrong_rows),
    "the norm's shift is lost": ("fold_bridge", fold_bridge, "_set_bias", forget),
    "positions stay": ("window_major", window_major.Layout, "order", no_order),
    "the bridge reads windows": ("window_major", window_major, "_regather", forget),
    "the bridge writes rows": ("window_major", window_major, "_scatter", forget),
    "the position bias stays": ("window_major", window_major.Table, "permute", forget),
    "q is not scaled": ("fuse_attention", fuse_attention, "_scale_input", forget),
    "k and v are scaled": ("fuse_attention", fuse_attention, "_scale_input", scale_all),
    "a weight is rounded": ("simplify", simplify, "_transplant", spoil),
    "one plus is lost": ("split", splitting, "_chunk", no_ones),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_pass_with_a_mistake_stops_the_export_and_nothing_is_written(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    step, owner, attribute, mistake = MUTANTS[name]
    checkpoint = tmp_path / "model.safetensors"
    save_checkpoint(Checkpoint(network(BUSY)), checkpoint)
    monkeypatch.setattr(pipeline, "trace", lambda model, batch, *rest: traced(BUSY, batch))
    monkeypatch.setattr(owner, attribute, mistake)

    with pytest.raises(PassBroken, match=rf"[Tt]he (pass )?{step} changed the graph's output by"):
        pipeline.export_bundle(str(checkpoint), tmp_path / "bundle")

    assert list(tmp_path.iterdir()) == [checkpoint]


def test_without_a_mistake_the_same_export_passes(tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.safetensors"
    save_checkpoint(Checkpoint(network(BUSY)), checkpoint)

    report = pipeline.export_bundle(str(checkpoint), tmp_path / "bundle")

    assert report.passed
    assert (tmp_path / "bundle" / "manifest.json").exists()
