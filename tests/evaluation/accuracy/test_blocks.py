from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from model_helpers import filled, tiny_dit, tiny_edt, tiny_pit
from pass_helpers import check_shapes
from perturb_helpers import perturb

from pitstop.evaluation.accuracy.block_outputs import Feeds, Flow, golden_calls, graph_flows
from pitstop.evaluation.accuracy.blocks import BlockErrors, NotApart, measure_blocks, take_apart
from pitstop.evaluation.accuracy.reference import load_model
from pitstop.evaluation.accuracy.torch_block_outputs import token_order, torch_flows
from pitstop.export.pipeline import export_bundle
from pitstop.models.amm import AmmConfig
from pitstop.models.checkpoint import Checkpoint, build_model, save_checkpoint
from pitstop.models.denoiser import DenoiserConfig
from pitstop.runtime.backend import SessionOptions
from pitstop.runtime.backends import load_backend
from pitstop.runtime.bundle.folder import Bundle, open_bundle
from pitstop.runtime.bundle.goldens import read_goldens

BLOCKS = [
    "x_embedder",
    *(f"blocks.{index}.{half}" for index in range(2) for half in ("attn", "mlp")),
    "final_layer",
]


def calls_of(bundle: Bundle) -> list[Feeds]:
    return golden_calls(read_goldens(bundle.path(bundle.manifest.goldens)), bundle.manifest.batch)


def watch_torch(bundle: Bundle, checkpoint: Path) -> list[Flow]:
    model = load_model(str(checkpoint), bundle.manifest)
    return torch_flows(model, bundle.manifest, calls_of(bundle))


def measure(bundle: Bundle, flows: Sequence[Flow], precision: str = "fp32") -> BlockErrors:
    backend = load_backend("onnxruntime")
    return measure_blocks(bundle, precision, backend, SessionOptions(), flows, reference="it")


@pytest.fixture(scope="session")
def flows(exported: Path, checkpoint: Path) -> list[Flow]:
    return watch_torch(open_bundle(exported), checkpoint)


def test_every_block_of_a_sound_bundle_answers_as_pytorchs(
    exported: Path, flows: list[Flow]
) -> None:
    found = measure(open_bundle(exported), flows)

    assert list(found.relative_l2) == ["conditioner", *BLOCKS]
    assert max(found.relative_l2.values()) < 1e-6
    assert found.bad == []


def test_the_tokens_of_this_bundle_are_in_window_order(exported: Path) -> None:
    """Without it the tests here would not see whether PyTorch's tokens are brought to it."""
    order = token_order(open_bundle(exported).manifest)

    assert order[:8].tolist() == [0, 1, 2, 3, 8, 9, 10, 11]


@pytest.mark.parametrize("block", ["conditioner", *BLOCKS])
def test_a_block_perturbed_by_one_percent_is_the_bad_one(
    exported: Path, flows: list[Flow], tmp_path: Path, block: str
) -> None:
    broken = perturb(exported, tmp_path / "broken", block)

    found = measure(open_bundle(broken), flows)

    assert found.bad == [block]
    assert found.worst == block


def test_without_pytorch_the_fp32_graph_is_the_reference(exported: Path, tmp_path: Path) -> None:
    broken = perturb(exported, tmp_path / "broken", "blocks.1.attn", "fp16")
    sound, bad = open_bundle(exported), open_bundle(broken)
    reference = graph_flows(sound, calls_of(sound))

    assert measure(sound, reference, "fp16").bad == []
    assert measure(bad, reference, "fp16").bad == ["blocks.1.attn"]


@pytest.mark.parametrize("config", [tiny_pit(depth=2), tiny_dit(depth=2)], ids=["pit", "dit"])
def test_a_bundle_for_engines_comes_apart_too(config: DenoiserConfig, tmp_path: Path) -> None:
    """All tokens of all images are in one axis there, windows side by side."""
    checkpoint = tmp_path / "model.safetensors"
    save_checkpoint(Checkpoint(filled(build_model(config)), (), "random"), checkpoint)
    export_bundle(str(checkpoint), tmp_path / "bundle", target="tensorrt-rtx", precisions=["fp16"])
    bundle = open_bundle(tmp_path / "bundle")

    flows = watch_torch(bundle, checkpoint)

    found, lowered = measure(bundle, flows), measure(bundle, flows, "fp16")
    assert list(found.relative_l2) == ["conditioner", *BLOCKS]
    assert max(found.relative_l2.values()) < 1e-6
    assert lowered.bad == []


def test_a_dit_that_was_not_split_comes_apart_too(tmp_path: Path) -> None:
    checkpoint = tmp_path / "dit.safetensors"
    model = filled(build_model(tiny_dit(depth=2)))
    save_checkpoint(Checkpoint(model, (), "random"), checkpoint)
    export_bundle(str(checkpoint), tmp_path / "bundle", left_out=("split",))
    bundle = open_bundle(tmp_path / "bundle")

    found = measure(bundle, watch_torch(bundle, checkpoint))

    assert list(found.relative_l2) == BLOCKS
    assert max(found.relative_l2.values()) < 1e-6


def test_an_edt_comes_apart_at_its_long_skips_too(tmp_path: Path) -> None:
    checkpoint = tmp_path / "edt.safetensors"
    model = filled(build_model(tiny_edt(amm=AmmConfig((1,)))))
    save_checkpoint(Checkpoint(model, (), "random"), checkpoint)
    export_bundle(str(checkpoint), tmp_path / "bundle")
    bundle = open_bundle(tmp_path / "bundle")
    flows = watch_torch(bundle, checkpoint)

    found = measure(bundle, flows)

    assert {"conditioner", "down_blocks.1", "concat_blocks.0"} < set(found.relative_l2)
    assert max(found.relative_l2.values()) < 1e-6
    for block in ("blocks.2.mlp", "concat_blocks.1", "conditioner"):
        broken = open_bundle(perturb(tmp_path / "bundle", tmp_path / block, block))
        assert measure(broken, flows).bad == [block]


def test_blocks_that_are_apart_do_not_feed_each_other(exported: Path) -> None:
    bundle = open_bundle(exported)

    apart = take_apart(ir.load(bundle.path(bundle.manifest.denoiser("fp32").path)))

    check_shapes(apart.model)
    assert list(apart.left) == BLOCKS
    assert list(apart.fed) == BLOCKS[:-1]
    streams = [value for value in apart.model.graph.outputs if value.name != "prediction"]
    assert not any(list(value.consumers()) for value in streams)


def test_blocks_of_another_depth_are_not_compared(exported: Path, flows: list[Flow]) -> None:
    shallow = [Flow(flow.feeds, dict(list(flow.leaving.items())[:-1])) for flow in flows]

    with pytest.raises(NotApart, match="x_embedder and 5 more, not x_embedder and 4 more"):
        measure(open_bundle(exported), shallow)


def test_a_block_that_gives_no_numbers_is_bad() -> None:
    calls = {"a": (1e-7, 1e-8), "b": (1e-7, np.inf), "c": (np.nan, 1e-8), "d": (1e-8, np.nan)}
    found = BlockErrors("it", calls, (0.0, 999.0), limit=1e-5)

    assert found.bad == ["b", "c", "d"]


def test_a_block_has_an_error_at_every_golden_timestep_and_the_worst_counts(
    exported: Path, flows: list[Flow]
) -> None:
    bundle = open_bundle(exported)

    found = measure(bundle, flows, "fp16")

    goldens = read_goldens(bundle.path(bundle.manifest.goldens))
    assert found.timesteps == tuple(goldens.timesteps.tolist())
    for name, errors in found.calls.items():
        assert len(errors) == len(found.timesteps)
        assert found.relative_l2[name] == max(errors)
    assert len(set(found.calls["blocks.0.mlp"])) > 1


@pytest.mark.parametrize("batch", [1, 3])
def test_calls_are_brought_to_the_batch_of_the_graph(exported: Path, batch: int) -> None:
    bundle = open_bundle(exported)
    goldens = read_goldens(bundle.path(bundle.manifest.goldens))

    calls = golden_calls(goldens, batch)

    assert len(calls) == len(goldens.timesteps)
    assert {len(array) for feeds in calls for array in feeds.values()} == {batch}
    np.testing.assert_array_equal(calls[0]["latent"], goldens.latents[0, :batch])


@pytest.mark.slow
def test_a_perturbed_block_of_the_shipped_model_is_found(tmp_path: Path) -> None:
    export_bundle("fashion", tmp_path / "bundle")
    broken = open_bundle(perturb(tmp_path / "bundle", tmp_path / "broken", "blocks.3.mlp"))

    found = measure(broken, watch_torch(broken, Path("fashion")))

    assert found.bad == ["blocks.3.mlp"]
