from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from bundle_helpers import one_line
from checkpoint_helpers import tiny_checkpoint
from model_helpers import tiny_dit, tiny_pit
from pass_helpers import ask_pytorch, feeds_for, network, traced

from pitstop import CheckpointError
from pitstop.export.parity import FP32_TOLERANCE
from pitstop.export.trace import TorchSession, describe, load_source, manifest_for, trace
from pitstop.graphs.graph_file import run_graph
from pitstop.graphs.scopes import MODULE, module_of
from pitstop.models.checkpoint import Checkpoint
from pitstop.models.denoiser import DenoiserConfig
from pitstop.runtime.distance import relative_l2

PIT = tiny_pit(depth=1)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "tiny.safetensors")


@pytest.mark.parametrize("config", [PIT, tiny_dit(depth=1)], ids=["pit", "dit"])
def test_the_graph_answers_as_pytorch(config: DenoiserConfig) -> None:
    feeds = feeds_for(config)

    [answer] = run_graph(traced(config), feeds).values()

    assert relative_l2(ask_pytorch(config, feeds), answer) <= FP32_TOLERANCE


def test_inputs_and_output_have_the_names_types_and_shapes_of_the_runtime() -> None:
    graph = traced(PIT, 3).graph
    rows, columns = PIT.input_size

    inputs = [(value.name, value.dtype, list(value.shape or ())) for value in graph.inputs]
    assert inputs == [
        ("latent", ir.DataType.FLOAT, [3, PIT.in_channels, rows, columns]),
        ("timestep", ir.DataType.FLOAT, [3]),
        ("label", ir.DataType.INT64, [3]),
    ]
    [output] = graph.outputs
    assert output.name == "prediction"
    assert all(isinstance(side, int) for side in output.shape or ())


def test_every_node_tells_its_module_and_no_path_of_this_machine() -> None:
    nodes = list(traced(PIT).graph)

    assert {name for node in nodes for name in node.metadata_props} == {MODULE}
    assert {module_of(node) for node in nodes} <= dict(network(PIT).named_modules()).keys()
    linears = {module_of(node) for node in nodes if node.op_type in {"MatMul", "Gemm", "Conv"}}
    assert {"x_embedder.proj", "blocks.0.attn.bridge.pw", "final_layer.linear"} < linears


def test_what_constant_folding_makes_stands_in_the_module_that_reads_it() -> None:
    splits = [node for node in traced(PIT).graph if node.op_type == "Split"]

    assert [module_of(node) for node in splits] == ["blocks.0", "blocks.0.attn", "final_layer"]


def test_the_same_network_gives_the_same_bytes() -> None:
    first, again = (ir.to_proto(trace(network(PIT), 2)).SerializeToString() for _ in range(2))

    assert first == again


def test_the_exporter_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    trace(network(PIT), 1)

    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_the_pytorch_session_answers_as_the_model() -> None:
    feeds = feeds_for(PIT)

    answer = TorchSession(network(PIT)).run(feeds)

    assert list(answer) == ["prediction"]
    np.testing.assert_array_equal(answer["prediction"], ask_pytorch(PIT, feeds))


def test_the_flops_of_a_call_grow_with_its_rows() -> None:
    checkpoint = Checkpoint(network(PIT))

    one, four = (describe(checkpoint, "tiny", batch) for batch in (1, 4))

    assert four.flops_per_call == 4 * one.flops_per_call > 0
    assert one.parameters == sum(weight.numel() for weight in network(PIT).parameters())


def test_the_manifest_names_no_null_class_where_labels_were_never_dropped() -> None:
    dropped = manifest_for(Checkpoint(network(PIT)), "tiny", 2)
    kept = manifest_for(Checkpoint(network(tiny_pit(depth=1, class_dropout_prob=0))), "tiny", 2)

    assert dropped.label.null == PIT.num_classes
    assert kept.label.null is None


def test_a_preset_gets_its_weights_from_the_seed() -> None:
    first, again, other = (load_source("pit-ti-8", seed=seed).model for seed in (1, 1, 2))

    weights = [
        torch.cat([w.flatten() for w in model.parameters()]) for model in (first, again, other)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("image_size", [0, -8, 100])
def test_an_image_size_between_latent_pixels_is_refused(image_size: int) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_source("pit-ti-8", image_size)

    message = one_line(caught.value)
    assert f"The image size is {image_size}" in message
    assert "multiple of 8 above 0" in message


def test_an_image_size_that_the_window_does_not_divide_is_refused(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match=re.escape("10 x 10 tokens")):
        load_source(str(checkpoint), 20)


def test_a_name_with_a_suffix_is_a_file_and_any_other_a_preset() -> None:
    with pytest.raises(CheckpointError, match=re.escape("no checkpoint at fashion.pt")):
        load_source("fashion.pt")
    with pytest.raises(CheckpointError, match="Did you mean fashion"):
        load_source("fashon")


def test_a_folder_of_a_presets_name_does_not_hide_the_preset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pit-ti-8").mkdir()
    monkeypatch.chdir(tmp_path)

    assert load_source("pit-ti-8").config.patch_size == 8
