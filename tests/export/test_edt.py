"""An EDT checkpoint through the whole export: passes, split, precisions, 50 steps."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from calibration_helpers import calibrate
from edt_helpers import S2, EdtShape, edt_forward, edt_weights, wider
from format_helpers import Weights, write_dit
from low_helpers import denoiser
from model_helpers import tiny_dit, tiny_edt
from pass_helpers import ask_pytorch, feeds_for, ops, traced

from pitstop import CheckpointError
from pitstop.calibration.qdq.placement import Placement, find_sites
from pitstop.evaluation.accuracy.reference import load_model
from pitstop.export.lowering.kept_fp32 import RULES, nodes_in_fp32
from pitstop.export.optimize import choose_steps, optimize
from pitstop.export.pipeline import export_bundle
from pitstop.export.trace import Hints, load_source
from pitstop.graphs.blocks import name_blocks
from pitstop.graphs.graph_file import run_graph
from pitstop.models.amm import AmmConfig
from pitstop.models.dit import DitConfig
from pitstop.models.edt import EdtConfig
from pitstop.runtime.bundle.folder import open_bundle
from pitstop.runtime.distance import psnr, relative_l2
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.noise import START, draw_noise
from pitstop.runtime.session import Array

SHAPE = wider()
AMM = (1, 3, 5)
SEEDS = (11, 12)
CLASSES = (2, 0)


class Source:
    """The authors' model behind the runtime's `Session`."""

    device = "by hand"

    def __init__(self, weights: Weights, shape: EdtShape, amm: Sequence[int]) -> None:
        self._forward = functools.partial(edt_forward, weights, shape=shape, amm=amm)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        inputs = [torch.from_numpy(feeds[name]) for name in ("latent", "timestep", "label")]
        return {"prediction": self._forward(*inputs).numpy()}

    def close(self) -> None:
        """Nothing to give back."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dit(tmp_path_factory.mktemp("edt") / "dit.pt", edt_weights(SHAPE))


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a modulated attention on each of two grids, and int8."""
    out = tmp_path_factory.mktemp("exported") / "bundle"
    report = export_bundle(
        str(checkpoint), out, batch=4, precisions=("fp32", "fp16"), hints=Hints(amm="1,3,5")
    )
    assert report.passed
    assert calibrate(out).passed
    return out


def source_of(bundle: Path, amm: Sequence[int] = AMM) -> Pipeline:
    source = Source(edt_weights(SHAPE), SHAPE, amm)
    return Pipeline(open_bundle(bundle).manifest, source, "fp32")


def sample(pipeline: Pipeline) -> Array:
    latents: Array = pipeline(CLASSES, seeds=SEEDS, steps=50, cfg_scale=2.5).latents
    return latents


def lowest_psnr(expected: Array, found: Array) -> float:
    return min(
        psnr(wanted, image, float(np.ptp(wanted)))
        for wanted, image in zip(expected, found, strict=True)
    )


@pytest.mark.parametrize("time", [0.0, 341.0, 999.0])
def test_one_call_is_that_of_the_source(time: float, bundle: Path) -> None:
    latent = draw_noise(range(4), START, (4, 16, 16))
    labels = np.array([0, 1, 2, 3])

    found = Pipeline.from_bundle(bundle).predict(latent, time, {"label": labels})

    assert relative_l2(source_of(bundle).predict(latent, time, {"label": labels}), found) <= 1e-5
    assert relative_l2(source_of(bundle, ()).predict(latent, time, {"label": labels}), found) > 1e-3


@pytest.mark.parametrize(("precision", "bar"), [("fp32", 60), ("fp16", 45), ("int8", 25)])
def test_fifty_steps_end_where_those_of_the_source_end(
    precision: str, bar: float, bundle: Path
) -> None:
    found = sample(Pipeline.from_bundle(bundle, precision=precision))
    assert lowest_psnr(sample(source_of(bundle)), found) >= bar


def test_every_pass_knows_an_edt(bundle: Path) -> None:
    reports = {report.name: report for report in open_bundle(bundle).manifest.passes}
    assert len(reports["fuse_attention"].rewritten) == 6
    assert reports["split"].rewritten == ("modulation",)
    for name in ("fuse_attention", "split", "window_major", "fold_bridge"):
        assert reports[name].skipped == {}


def test_a_bundle_finds_its_source_again_without_being_told(checkpoint: Path, bundle: Path) -> None:
    """The manifest records the modulation, for a comparison with PyTorch live."""
    manifest = open_bundle(bundle).manifest
    assert manifest.model.config["amm"] == {"blocks": list(AMM), "form": "exp"}

    model = load_model(str(checkpoint), manifest)

    assert isinstance(model.config, EdtConfig)
    assert model.config.amm == AmmConfig(AMM)


@pytest.mark.parametrize(
    ("source", "asked", "expected"),
    [
        ("edt-s-2", None, AmmConfig((8,))),
        ("edt-s-2", "auto", AmmConfig((8,))),
        ("edt-s-2", "weak", AmmConfig((7, 10))),
        ("edt-s-2", "off", AmmConfig()),
        ("edt-s-2", " 3, 1", AmmConfig((1, 3))),
        ("dit-s-8", None, AmmConfig()),
        ("dit-s-8", "8,10", AmmConfig((8, 10))),
    ],
)
def test_the_modulation_is_switched_for_any_source(
    source: str, asked: str | None, expected: AmmConfig
) -> None:
    config = load_source(source, hints=Hints(amm=asked)).config
    assert isinstance(config, DitConfig | EdtConfig)
    assert config.amm == expected


@pytest.mark.parametrize(
    ("source", "asked", "message"),
    [
        ("fashion", "off", "The attention of a pit cannot be modulated"),
        ("dit-s-8", "auto", "No attention modulation is published for dit with 12 blocks"),
        ("dit-s-8", "x", "amm is 'x'. It must be auto, weak, off or block numbers"),
        ("dit-s-8", "", "amm is ''"),
        ("edt-s-2", "12", "block indices from 0 to 11"),
    ],
)
def test_a_modulation_that_cannot_be_is_refused(source: str, asked: str, message: str) -> None:
    with pytest.raises(CheckpointError) as raised:
        load_source(source, hints=Hints(amm=asked))
    assert message in str(raised.value)


# Its graph, pass by pass


CONFIGS = {
    "edt": tiny_edt(),
    "modulated edt": tiny_edt(amm=AmmConfig((1, 4))),
    "modulated dit": tiny_dit(amm=AmmConfig((1,))),
}


@pytest.mark.parametrize("target", ["portable", "onnxruntime", "tensorrt11"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_each_target_computes_what_pytorch_does(config: Any, target: str) -> None:
    feeds = feeds_for(config)
    steps = [name for name in choose_steps(target, ()) if name != "split"]

    folded = optimize(traced(config), feeds, steps).graphs["denoiser.fp32"]

    found = run_graph(folded, feeds)["prediction"]
    assert relative_l2(ask_pytorch(config, feeds), found) <= 1e-5


def test_a_modulated_softmax_keeps_its_decomposed_form_and_says_why() -> None:
    config = tiny_edt(amm=AmmConfig((1, 4)))
    steps = choose_steps("onnxruntime", ())
    made = optimize(traced(config), feeds_for(config), steps)

    reports = {report.name: report for report in made.reports}
    if "multi_head_attention" in steps:
        assert len(reports["multi_head_attention"].rewritten) == 3
        assert set(reports["multi_head_attention"].skipped.values()) == {
            "its softmax is modulated, for which no operator has an input"
        }
    assert len(reports["fuse_attention"].rewritten) == 5
    assert ops(made.graphs["denoiser.fp32"])["Softmax"] == (
        2 if "multi_head_attention" in steps else 5
    )


def test_blocks_go_by_the_names_of_their_weights() -> None:
    blocks = name_blocks(denoiser(tiny_edt()).graph)

    def halves(index: int) -> list[str]:
        return [f"blocks.{index}.attn", f"blocks.{index}.mlp"]

    assert list(dict.fromkeys(blocks.values())) == [
        "x_embedder",
        *halves(0),
        "down_blocks.0",
        *halves(1),
        "down_blocks.1",
        *halves(2),
        "concat_blocks.0",
        *halves(3),
        "concat_blocks.1",
        *halves(4),
        "final_layer",
    ]


def test_the_residual_stream_and_the_long_skips_stay_in_fp32() -> None:
    graph = denoiser(tiny_edt(amm=AmmConfig((3,)))).graph
    islands = nodes_in_fp32(graph, "fp16", RULES)

    for node in graph:
        if node.op_type == "Concat":
            assert islands[node].startswith("residual stream")
    lowered = [node.op_type for node in graph if node not in islands]
    assert lowered.count("MatMul") == 5 * 6 + 2 + 2 + 2  # blocks, down, up and concat
    softmaxes = [node for node in islands if islands[node].startswith("softmax")]
    assert sorted(node.op_type for node in softmaxes) == ["Mul", *["Softmax"] * 5]
    streams = [node for node in graph if node.op_type == "Add" and node not in islands]
    assert all(node.inputs[1].const_value is not None for node in streams if node.inputs[1])


def test_every_linear_of_an_edt_is_quantized_under_its_own_name() -> None:
    graph = denoiser(tiny_edt(amm=AmmConfig((3,)))).graph

    sites = find_sites(graph, Placement(attention=True)).found

    names = [site.name for site in sites if site.weight]
    assert len(names) == len(set(names)) == 5 * 4 + 6
    for between in ("down_blocks.1.reduction", "up_blocks.1.expand", "concat_blocks.0.cat"):
        assert between in names
    operands = [site.name.rsplit(".", 1)[1] for site in sites if not site.weight]
    assert sorted(operands) == sorted(["q", "k", "softmax", "v"] * 5)


def test_a_position_bias_over_a_large_grid_is_a_constant_too() -> None:
    """The exporter by itself looks it up in its table in each call."""
    sizes = {"input_size": (32, 32), "num_heads": 8, "stage_heads": (8, 8, 8)}

    model = traced(tiny_edt(**sizes))

    assert ops(model)["GatherND"] == 0


@pytest.mark.slow
def test_edt_s_at_full_size_samples_as_its_source(tmp_path: Path) -> None:
    weights = edt_weights(S2)
    path = write_dit(tmp_path / "edt-s.pt", weights)

    report = export_bundle(str(path), tmp_path / "bundle", batch=2, precisions=("fp32", "fp16"))

    assert report.passed
    manifest = open_bundle(tmp_path / "bundle").manifest
    assert manifest.model.config["amm"] == {"blocks": [8], "form": "exp"}
    options: dict[str, Any] = {"seeds": [11], "steps": 50, "cfg_scale": 2.5}
    expected = Pipeline(manifest, Source(weights, S2, (8,)), "fp32")([207], **options).latents
    found = Pipeline.from_bundle(tmp_path / "bundle")([207], **options).latents
    assert lowest_psnr(expected, found) >= 60
