"""A pipeline's scheduler is honoured as diffusers itself goes by it, or refused by name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundle_helpers import one_line, toy_manifest
from checkpoint_helpers import tiny_checkpoint
from device_helpers import open_on
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from format_helpers import diffusers_forward, write_diffusers
from sampler_helpers import relative_l2, start_latent, toy_denoiser, walk, walk_ours

from pitstop import CheckpointError
from pitstop.export.pipeline import export_bundle
from pitstop.export.pipeline_folder import with_pipeline
from pitstop.runtime.bundle.folder import open_bundle
from pitstop.runtime.bundle.manifest import Manifest
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.noise import START, draw_noise
from pitstop.runtime.sampling.sampler import Latent, Prediction
from pitstop.runtime.sampling.samplers import make_sampler
from pitstop.runtime.sampling.schedule import Betas
from pitstop.runtime.sampling.settings import Settings

CLASSES = {
    "ddim": (DDIMScheduler, {"clip_sample": False}),
    "ddpm": (DDPMScheduler, {"clip_sample": False}),
    "dpmpp_2m": (DPMSolverMultistepScheduler, {}),
}
BETAS: dict[str, dict[str, Any]] = {
    "linear": {},
    "other linear": {"beta_start": 8e-4, "beta_end": 0.012, "num_train_timesteps": 500},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 8.5e-4, "beta_end": 0.012},
    "squaredcos_cap_v2": {"beta_schedule": "squaredcos_cap_v2"},
    "trained_betas": {
        "trained_betas": np.geomspace(1e-4, 0.05, 300).tolist(),
        "num_train_timesteps": 300,
    },
}
PREDICTIONS = ["epsilon", "v_prediction", "sample"]
STEPS = 20
FEW = Settings(8, "ddim", 1.0)


def pipeline(folder: Path, scheduler: Any, **changes: Any) -> Path:
    """A pipeline's folder as far as its scheduler, with changes to the file that it saves."""
    scheduler.save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "DiTPipeline"}))
    path = folder / "scheduler" / "scheduler_config.json"
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(content))
    return folder


def walk_diffusers(
    scheduler: Any, timesteps: list[int], monkeypatch: pytest.MonkeyPatch
) -> list[Latent]:
    """Every latent on the way of diffusers' own loop, fed our noise."""
    fresh: list[Latent] = []
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor",
        lambda shape, **options: torch.from_numpy(fresh[-1]),
    )

    def step(index: int, latent: Latent, prediction: Prediction, noise: Latent) -> Latent:
        fresh.append(noise)
        output, sample = torch.from_numpy(prediction.output), torch.from_numpy(latent)
        after: Latent = scheduler.step(output, scheduler.timesteps[index], sample)[0].numpy()
        return after

    return walk(timesteps, step, without_variance, start_latent())


def without_variance(latent: Latent, timestep: float) -> Prediction:
    return Prediction(toy_denoiser(latent, timestep).output)


# diffusers copies a tensor into an array in a way that NumPy 2 tells torch to mend.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
@pytest.mark.parametrize("sampler", CLASSES)
@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_every_latent_on_the_way_is_that_of_the_pipelines_own_scheduler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str, betas: str, predicts: str
) -> None:
    make, options = CLASSES[sampler]
    scheduler = make(**options, **BETAS[betas], prediction_type=predicts)
    folder = pipeline(tmp_path, scheduler)

    manifest, notes = with_pipeline(str(folder), toy_manifest())
    ours = make_sampler(sampler, manifest.schedule, STEPS, predicts=manifest.prediction_type)

    assert notes == ()
    assert isinstance(manifest.schedule, Betas)
    np.testing.assert_allclose(scheduler.betas.numpy(), manifest.schedule.betas(), rtol=2e-5)
    # Its own table is of float32 products; that its betas are ours, the line before shows.
    scheduler.alphas_cumprod = torch.from_numpy(manifest.schedule.alpha_bar())
    timesteps = ours.schedule.timesteps.tolist()
    if sampler == "ddpm":  # DiT's own respacing, which diffusers takes as a list
        scheduler.set_timesteps(timesteps=timesteps)
    else:
        scheduler.set_timesteps(STEPS)
        assert scheduler.timesteps.tolist() == timesteps
    theirs = walk_diffusers(scheduler, timesteps, monkeypatch)
    for one, other in zip(theirs, walk_ours(ours, without_variance), strict=True):
        assert relative_l2(one, other) <= 1e-5


def test_the_manifest_keeps_what_the_scheduler_says(tmp_path: Path) -> None:
    scheduler = DDIMScheduler(
        clip_sample=False, prediction_type="v_prediction", **BETAS["trained_betas"]
    )
    manifest, _ = with_pipeline(str(pipeline(tmp_path, scheduler)), toy_manifest())

    assert Manifest.from_json(manifest.to_json()) == manifest
    assert manifest.prediction_type == "v_prediction"


@pytest.mark.parametrize(
    ("make", "changes", "found"),
    [
        (DDIMScheduler, {"clip_sample": True}, "has clip_sample True, and only False"),
        (DDIMScheduler, {"thresholding": True}, "has thresholding True"),
        (DDIMScheduler, {"rescale_betas_zero_snr": True}, "has rescale_betas_zero_snr True"),
        (DDIMScheduler, {"set_alpha_to_one": False}, "has set_alpha_to_one False"),
        (DDIMScheduler, {"steps_offset": 1}, "has steps_offset 1, and only 0"),
        (DDIMScheduler, {"timestep_spacing": "trailing"}, "has timestep_spacing trailing"),
        (DDIMScheduler, {"beta_schedule": "sigmoid"}, "has the beta_schedule sigmoid"),
        (DDIMScheduler, {"prediction_type": "flow"}, "has the prediction_type 'flow'"),
        (DDIMScheduler, {"beta_start": "small"}, "has betas that are no numbers"),
        (DDIMScheduler, {"beta_end": 2.0}, "has betas that are no numbers in (0, 1)"),
        (DDIMScheduler, {"num_train_timesteps": 0}, "has 0 timesteps"),
        (DDIMScheduler, {"trained_betas": []}, "has betas that are no numbers"),
        (DDIMScheduler, {"trained_betas": [0.1, 0.2]}, "has 2 trained_betas for 1000 timesteps"),
        (DDIMScheduler, {"beta_start": 0.03}, "has betas that fall, from 0.03 to 0.02"),
        (
            DDPMScheduler,
            {"variance_type": "learned_range"},
            "the model does not learn its variance",
        ),
        (DDIMScheduler, {"snr_gamma": 5}, "has snr_gamma 5, which is not known"),
        (DDIMScheduler, {"_class_name": "PNDMScheduler"}, "is of the class PNDMScheduler"),
        (DDPMScheduler, {"variance_type": "fixed_large"}, "has variance_type fixed_large"),
        (DPMSolverMultistepScheduler, {"solver_order": 3}, "has solver_order 3, and only 2"),
        (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}, "has use_karras_sigmas True"),
    ],
)
def test_what_is_not_honoured_is_refused_by_name_and_value(
    tmp_path: Path, make: Any, changes: dict[str, Any], found: str
) -> None:
    options = {} if make is DPMSolverMultistepScheduler else {"clip_sample": False}
    folder = pipeline(tmp_path, make(**options), **changes)

    with pytest.raises(CheckpointError) as told:
        with_pipeline(str(folder), toy_manifest())

    assert found in one_line(told.value)
    assert "DDIMScheduler" in told.value.remedy


def test_a_field_that_is_not_there_has_diffusers_own_default(tmp_path: Path) -> None:
    folder = pipeline(tmp_path, DDIMScheduler(clip_sample=False))
    path = folder / "scheduler" / "scheduler_config.json"
    content = json.loads(path.read_text())
    del content["clip_sample"]
    path.write_text(json.dumps(content))

    with pytest.raises(CheckpointError, match="has clip_sample True"):
        with_pipeline(str(folder), toy_manifest())


@pytest.mark.parametrize("text", ["", "{", "[]", "3", 100_000 * "["])
def test_a_damaged_config_is_told(tmp_path: Path, text: str) -> None:
    folder = pipeline(tmp_path, DDIMScheduler(clip_sample=False))
    (folder / "scheduler" / "scheduler_config.json").write_text(text)

    with pytest.raises(CheckpointError, match=r"scheduler_config\.json"):
        with_pipeline(str(folder), toy_manifest())


def test_a_folder_without_a_scheduler_gets_a_note_of_what_was_assumed(tmp_path: Path) -> None:
    manifest, [note] = with_pipeline(str(tmp_path), toy_manifest())

    assert manifest == toy_manifest()
    assert "has no scheduler: the model is taken to predict the noise" in note
    assert "rise linearly from 0.0001 to 0.02" in note


def test_the_transformer_inside_a_pipeline_goes_by_its_scheduler_too(tmp_path: Path) -> None:
    folder = pipeline(tmp_path, DDIMScheduler(clip_sample=False, prediction_type="sample"))

    manifest, notes = with_pipeline(str(folder / "transformer"), toy_manifest())

    assert (manifest.prediction_type, notes) == ("sample", ())


def test_what_is_no_folder_says_nothing() -> None:
    assert with_pipeline("pit-s-2", toy_manifest()) == (toy_manifest(), ())


def test_the_scale_and_shift_are_those_of_the_pipelines_vae(tmp_path: Path) -> None:
    folder = pipeline(tmp_path, DDIMScheduler(clip_sample=False))
    (folder / "vae").mkdir()
    (folder / "vae" / "config.json").write_text('{"scaling_factor": 0.3611, "shift_factor": 0.12}')
    of_latents = dataclasses.replace(toy_manifest(), latent_space="vae", latent_scale=0.18215)

    manifest, _ = with_pipeline(str(folder), of_latents)

    assert (manifest.latent_scale, manifest.latent_shift) == (0.3611, 0.12)


@pytest.mark.parametrize(("channels", "space"), [(3, "vae"), (4, "pixel"), (None, "pixel")])
def test_three_channels_are_latents_where_the_pipelines_vae_has_three(
    channels: int | None, space: str, tmp_path: Path
) -> None:
    folder = pipeline(tmp_path, DDIMScheduler(clip_sample=False))
    (folder / "vae").mkdir()
    (folder / "vae" / "config.json").write_text(json.dumps({"latent_channels": channels}))
    of_three = dataclasses.replace(
        toy_manifest(), latent_space="pixel", latent_scale=1.0, latent_shape=(3, 8, 8)
    )

    manifest, _ = with_pipeline(str(folder), of_three)

    assert manifest.latent_space == space
    assert manifest.latent_scale == (0.18215 if space == "vae" else 1.0)


def test_the_size_of_a_pipeline_of_three_channels_asks_for_its_vae(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "transformer.safetensors", channels=3)
    folder = pipeline(tmp_path / "all", DDIMScheduler(clip_sample=False))
    (folder / "vae").mkdir()
    (folder / "vae" / "config.json").write_text('{"latent_channels": 3}')
    (folder / "transformer").mkdir()
    path = (tmp_path / "transformer.safetensors").rename(folder / "transformer" / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"draws latents of 3 channels.*`--vae`") as caught:
        export_bundle(str(path), tmp_path / "bundle", image_size=24)
    one_line(caught.value)


def test_the_classes_have_the_pipelines_names(tmp_path: Path) -> None:
    folder = pipeline(tmp_path, DDIMScheduler(clip_sample=False))
    names = {"0": "tench, Tinca tinca", "1": "crane", "2": "goldfish, Carassius auratus, crane"}
    (folder / "model_index.json").write_text(json.dumps({"id2label": names}))
    label = dataclasses.replace(toy_manifest().label, names=())
    unnamed = dataclasses.replace(toy_manifest(), conditions=(label,))

    manifest, _ = with_pipeline(str(folder), unnamed)

    assert manifest.label.index("goldfish") == 2
    assert manifest.label.index("Tinca tinca") == 0
    assert manifest.label.index("crane") == 1


@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_a_pipelines_bundle_draws_what_its_transformer_and_scheduler_draw(
    tmp_path: Path, predicts: str
) -> None:
    transformer = write_diffusers(tmp_path / "dit" / "transformer")
    scheduler = DDIMScheduler(
        clip_sample=False, prediction_type=predicts, beta_schedule="squaredcos_cap_v2"
    )
    source = pipeline(tmp_path / "dit", scheduler)
    report = export_bundle(str(source), tmp_path / "bundle", batch=1)
    assert report.passed

    bundle = open_bundle(tmp_path / "bundle")
    channels = bundle.manifest.latent_shape[0]
    scheduler.set_timesteps(8)
    latent = torch.from_numpy(draw_noise([7], START, bundle.manifest.latent_shape))
    for timestep in scheduler.timesteps:
        found = diffusers_forward(transformer, latent, timestep[None], torch.tensor([2]))
        latent = scheduler.step(found[:, :channels], timestep, latent).prev_sample

    on_host = Pipeline.from_bundle(bundle.folder, backend="onnxruntime")
    on_device = Pipeline.of(open_on("onnxruntime", bundle))
    for drawing in (on_host, on_device):
        drawn = drawing([2], seeds=[7], steps=8, sampler="ddim", cfg_scale=1.0).latents
        assert relative_l2(latent.numpy(), drawn) <= 1e-4
    assert on_device.loop.keeps_latents
    assert on_device.loop.why_not(on_device.requests(bundle.manifest.examples(1), [7], FEW)) is None
