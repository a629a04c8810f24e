"""A VAE's decoder in a bundle: both precisions against PyTorch, and pictures from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from bundle_helpers import one_line
from checkpoint_helpers import tiny_checkpoint
from low_helpers import types
from pass_helpers import noise
from vae_helpers import Tensors, change_config, change_weights, decode_with_diffusers, save_kl
from vae_helpers import save_tiny as save_tiny_vae

from pitstop import CheckpointError, OptionError
from pitstop.export.pipeline import ExportReport, export_bundle
from pitstop.export.vae import add as vae_module
from pitstop.export.vae.add import VaeShape
from pitstop.export.vae.lower import lower_decoder, name_parts
from pitstop.export.vae.trace import read_vae, trace_decoder
from pitstop.graphs.graph_file import run_graph
from pitstop.runtime.bundle.folder import Bundle, open_bundle
from pitstop.runtime.bundle.manifest import Manifest
from pitstop.runtime.distance import psnr, relative_l2
from pitstop.runtime.pipeline import Pipeline

FLOAT, FLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16
SHIFTED = {"scaling_factor": 0.5, "shift_factor": 0.25}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PiT that draws latents of 4 x 16 x 16."""
    folder = tmp_path_factory.mktemp("checkpoint")
    return str(tiny_checkpoint(folder / "latent.safetensors", channels=4))


@pytest.fixture(scope="module")
def kl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return change_config(save_kl(tmp_path_factory.mktemp("kl")), **SHIFTED)


@pytest.fixture(scope="module")
def traced(kl: Path) -> ir.Model:
    return trace_decoder(read_vae(kl), (1, 4, 8, 8), 19)


@pytest.fixture(scope="module")
def exported(checkpoint: str, kl: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    """The denoiser with a decoder in tiles: 16 latent pixels in tiles of 8."""
    out = tmp_path_factory.mktemp("exported") / "bundle"
    return export_bundle(checkpoint, out, vae=kl, vae_shape=VaeShape(tile=8))


@pytest.fixture
def bundle(exported: ExportReport) -> Bundle:
    return open_bundle(exported.bundle)


def images(pipeline: Pipeline, latents: np.ndarray) -> np.ndarray:
    assert pipeline.decode is not None
    return np.concatenate(list(pipeline.decode(latents)))


def loud(tensors: Tensors) -> Tensors:
    """A VAE whose residual stream leaves fp16 in one block, as SDXL's does."""
    key = "decoder.up_blocks.1.resnets.0.conv2.weight"
    return {**tensors, key: 3e5 * tensors[key]}


def test_the_traced_decoder_is_pytorchs_with_static_shapes(traced: ir.Model, kl: Path) -> None:
    latent = noise(1, 4, 8, 8)

    found = run_graph(traced, {"latent": latent})["image"]

    assert relative_l2(decode_with_diffusers(kl, latent), found) < 1e-5
    for node in traced.graph:
        for value in node.outputs:
            assert value.shape is not None
            assert all(isinstance(side, int) for side in value.shape)


def test_in_fp16_the_norms_and_the_softmax_stay_in_fp32(traced: ir.Model) -> None:
    made = lower_decoder(traced, [{"latent": noise(1, 4, 8, 8)}])

    found = types(made.model)
    kinds = {node.op_type: found[str(node.outputs[0].name)] for node in made.model.graph}
    assert (kinds["InstanceNormalization"], kinds["Softmax"]) == (FLOAT, FLOAT)
    assert (kinds["MatMul"], kinds["Resize"], kinds["Sigmoid"]) == (FLOAT16,) * 3
    convolutions = [node for node in made.model.graph if node.op_type == "Conv"]
    assert {node.inputs[1].dtype for node in convolutions} == {FLOAT16}
    assert {value.dtype for value in [*made.model.graph.inputs, *made.model.graph.outputs]} == {
        FLOAT
    }
    onnx.checker.check_model(ir.to_proto(made.model), full_check=True)


def test_the_parts_of_a_decoder_go_by_their_weights(traced: ir.Model) -> None:
    names = list(dict.fromkeys(name_parts(traced.graph).values()))

    assert names[:3] == ["post_quant_conv", "decoder.conv_in", "decoder.mid_block.resnets.0.conv1"]
    assert names[-1] == "decoder.conv_out"
    assert len(names) == len(set(names)) > 15


def test_what_would_overflow_stays_in_fp32_and_the_report_names_it(tmp_path: Path) -> None:
    vae = read_vae(change_weights(save_kl(tmp_path / "vae"), loud))
    model, latent = trace_decoder(vae, (1, 4, 8, 8), 19), noise(1, 4, 8, 8)

    made = lower_decoder(model, [{"latent": latent}])

    reasons = " ".join(set(made.report.skipped.values()))
    assert "decoder.up_blocks.1.resnets.0.conv2 would overflow" in reasons
    assert "beyond half of fp16's range" in reasons
    assert "mid_block" not in reasons
    assert len(made.report.rewritten) > len(made.report.skipped)
    assert psnr(vae.decode(latent), made.predictions[0], 2.0) > 45.0
    assert np.isfinite(run_graph(made.model, {"latent": latent})["image"]).all()


@pytest.mark.slow
def test_a_bundle_with_a_decoder_meets_both_gates(exported: ExportReport, bundle: Bundle) -> None:
    assert exported.passed
    assert {name: parity.least_db for name, parity in exported.vae.items()} == {
        "decoder.fp32": 60.0,
        "decoder.fp16": 45.0,
    }
    assert exported.vae["decoder.fp32"].worst > 100.0 > exported.vae["decoder.fp16"].worst
    manifest = bundle.manifest
    assert manifest.passes[-1].name == "decoder.fp16"
    assert (manifest.latent_scale, manifest.latent_shift) == (0.5, 0.25)
    assert "diffusers" in manifest.versions
    for name in ("decoder.fp32", "decoder.fp16"):
        [latent], [image] = manifest.graphs[name].inputs, manifest.graphs[name].outputs
        assert str(latent) == "latent float32 [1, 4, 8, 8]"
        assert str(image) == "image float32 [1, 3, 16, 16]"
        onnx.checker.check_model(onnx.load(bundle.path(manifest.graphs[name].path)))


@pytest.mark.slow
def test_the_runtime_decodes_a_tile_as_diffusers_does(bundle: Bundle, kl: Path) -> None:
    latents = noise(2, 4, 8, 8)

    found = images(Pipeline.from_bundle(bundle.folder), latents)

    expected = decode_with_diffusers(kl, latents / np.float32(0.5) + np.float32(0.25))
    assert psnr(expected, found, 2.0) > 100.0


@pytest.mark.slow
def test_the_decoder_alone_fails_the_export_and_nothing_is_written(
    checkpoint: str, kl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vae_module.LEAST_PSNR, "decoder.fp16", 1000.0)

    report = export_bundle(checkpoint, tmp_path / "bundle", vae=kl)

    assert report.parity.passed
    assert not report.passed
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_pixels_takes_no_vae(tmp_path: Path, kl: Path) -> None:
    pixels = str(tiny_checkpoint(tmp_path / "pixels.safetensors"))

    with pytest.raises(CheckpointError, match=r"pixels draws pixels.*Leave out `--vae`") as caught:
        export_bundle(pixels, tmp_path / "bundle", vae=kl)

    one_line(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["pixels.safetensors"]


@pytest.fixture(scope="module")
def f4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VAE of three channels that enlarges fourfold, as LDM's."""
    folder = save_kl(tmp_path_factory.mktemp("f4"), blocks=3, latent_channels=3)
    return change_config(folder, **SHIFTED)


def test_three_channels_are_latents_where_a_vae_of_three_is_named(f4: Path, tmp_path: Path) -> None:
    source = str(tiny_checkpoint(tmp_path / "latent.safetensors", channels=3))

    report = export_bundle(source, tmp_path / "bundle", vae=f4, image_size=96)

    assert report.passed
    assert report.notes == ()
    pipeline = Pipeline.from_bundle(report.bundle)
    manifest = pipeline.manifest
    assert (manifest.latent_space, manifest.latent_shape) == ("vae", (3, 24, 24))
    assert (manifest.latent_scale, manifest.latent_shift) == (0.5, 0.25)
    drawn = pipeline([0], steps=2)
    assert [picture.size for picture in drawn.images] == [(96, 96)]
    own = drawn.latents / np.float32(0.5) + np.float32(0.25)
    assert psnr(decode_with_diffusers(f4, own), images(pipeline, drawn.latents), 2.0) > 60.0


def test_three_channels_without_a_vae_are_pixels_with_a_note(tmp_path: Path) -> None:
    source = str(tiny_checkpoint(tmp_path / "pixels.safetensors", channels=3))
    report = export_bundle(source, tmp_path / "bundle")
    assert open_bundle(report.bundle).manifest.latent_space == "pixel"
    [note] = report.notes
    assert "taken for the image itself" in note
    assert "`--vae`" in note


def test_pixels_keep_their_size_beside_a_vae_of_other_channels(tmp_path: Path, kl: Path) -> None:
    pixels = str(tiny_checkpoint(tmp_path / "pixels.safetensors", channels=3))
    with pytest.raises(
        CheckpointError, match=r"latents of 3 channels, and the VAE's latents have 4"
    ):
        export_bundle(pixels, tmp_path / "bundle", vae=kl, image_size=24)


def test_a_vae_of_other_latents_is_refused_before_anything_is_traced(
    checkpoint: str, tmp_path: Path
) -> None:
    wide = save_kl(tmp_path / "vae", latent_channels=16)

    with pytest.raises(CheckpointError, match="16 channels, those of latent 4") as caught:
        export_bundle(checkpoint, tmp_path / "bundle", vae=wide)

    one_line(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["vae"]


@pytest.mark.parametrize(
    ("fields", "found"), [({"batch": 0}, "batch is 0"), ({"tile": 7}, "tile is 7")]
)
def test_a_shape_that_no_decoder_can_have_is_refused(fields: dict[str, int], found: str) -> None:
    with pytest.raises(OptionError, match=found):
        VaeShape(**fields)


@pytest.mark.slow
@pytest.mark.parametrize("save", [lambda folder: save_kl(folder, blocks=4), save_tiny_vae])
def test_vaes_that_enlarge_eightfold_draw_pictures_of_the_size_asked_for(
    checkpoint: str, tmp_path: Path, save: object
) -> None:
    folder = save(tmp_path / "vae")  # type: ignore[operator]

    report = export_bundle(
        checkpoint, tmp_path / "bundle", vae=folder, image_size=192, vae_shape=VaeShape(2, 24)
    )

    assert report.passed
    pipeline = Pipeline.from_bundle(report.bundle)
    drawn = pipeline([0, 1, 2], steps=2)
    assert {(picture.size, picture.mode) for picture in drawn.images} == {((192, 192), "RGB")}
    manifest: Manifest = pipeline.manifest
    own = drawn.latents / np.float32(manifest.latent_scale)
    found = images(pipeline, drawn.latents)
    assert psnr(decode_with_diffusers(folder, own), found, 2.0) > 60.0


@pytest.mark.slow
def test_a_decoder_of_stable_diffusions_size_meets_both_gates(
    checkpoint: str, tmp_path: Path
) -> None:
    """Of SD-VAE's layout, 83.7 million parameters with the encoder, and random weights."""
    folder = save_kl(
        tmp_path / "vae", blocks=4, channels=(128, 256, 512, 512), layers_per_block=2, groups=32
    )

    report = export_bundle(checkpoint, tmp_path / "bundle", vae=folder)

    assert report.passed
    graphs = open_bundle(report.bundle).manifest.graphs
    sizes = {name: graphs[name].weight_bytes / 1e6 for name in ("decoder.fp32", "decoder.fp16")}
    assert sizes["decoder.fp32"] == pytest.approx(198, abs=2)
    assert sizes["decoder.fp16"] == pytest.approx(99, abs=1)
