"""A pipeline's scheduler is honoured as diffusers itself goes by it, or refused by name."""

from __future__ import annotations

import dataclasses
import itertools
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundle_helpers import one_line, toy_manifest
from checkpoint_helpers import tiny_checkpoint
from device_helpers import open_on
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddim_parallel import DDIMParallelScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from format_helpers import diffusers_forward, write_diffusers
from sampler_helpers import relative_l2, start_latent, toy_denoiser, walk, walk_ours

from pitstop import CheckpointError
from pitstop.export.by_hand import ByHand
from pitstop.export.pipeline import export_bundle
from pitstop.export.pipeline_folder import with_pipeline
from pitstop.runtime.bundle.folder import open_bundle
from pitstop.runtime.bundle.manifest import Manifest
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.noise import START, draw_noise
from pitstop.runtime.sampling.sampler import Latent, Prediction
from pitstop.runtime.sampling.samplers import sampler_for
from pitstop.runtime.sampling.schedule.betas import Betas
from pitstop.runtime.sampling.schedule.flow import LinearFlow
from pitstop.runtime.sampling.schedule.scheduler import Scheduler
from pitstop.runtime.sampling.settings import Settings
from pitstop.runtime.sampling.step_table import NotLinear, step_table

BETAS: dict[str, dict[str, Any]] = {
    "linear": {},
    "other linear": {"beta_start": 8e-4, "beta_end": 0.012, "num_train_timesteps": 500},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 8.5e-4, "beta_end": 0.012},
    "squaredcos_cap_v2": {"beta_schedule": "squaredcos_cap_v2"},
    "trained_betas": {
        "trained_betas": np.geomspace(1e-4, 0.05, 300).tolist(),
        "num_train_timesteps": 300,
    },
    "no signal at the last": {"rescale_betas_zero_snr": True},
}
UNCLIPPED = {"clip_sample": False}
CLASSES: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (DDIMScheduler, UNCLIPPED),
    "ddim to timestep 0": (DDIMScheduler, {**UNCLIPPED, "set_alpha_to_one": False}),
    "ddim, clipped": (DDIMScheduler, {"clip_sample_range": 1.2}),
    "ddim, parallel": (DDIMParallelScheduler, UNCLIPPED),
    "ddpm": (DDPMScheduler, UNCLIPPED),
    "ddpm, clipped": (DDPMScheduler, {"clip_sample_range": 0.8}),
    "dpmpp_2m": (DPMSolverMultistepScheduler, {}),
    "dpmpp_2m_sde": (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": (UniPCMultistepScheduler, {}),
    "unipc_3": (UniPCMultistepScheduler, {"solver_order": 3}),
    "euler": (EulerDiscreteScheduler, {}),
}
MULTISTEP = ("dpmpp_2m", "dpmpp_2m_sde", "unipc", "unipc_3")
SPACINGS: dict[str, dict[str, Any]] = {
    "its own": {},
    "leading": {"timestep_spacing": "leading"},
    "leading, raised": {"timestep_spacing": "leading", "steps_offset": 1},
    "linspace": {"timestep_spacing": "linspace"},
    "trailing": {"timestep_spacing": "trailing"},
}
PREDICTIONS = ["epsilon", "v_prediction", "sample"]
LEAST_SIGNAL = 2.0**-24  # of DPM-Solver and Euler, where none is left
STEPS = 19  # no divisor of the timesteps in training
MANY = ("euler", "no signal at the last", "linspace")  # visits less signal than at the last
FEW = Settings(8, cfg_scale=1.0)
FLOW_OF_SIZE = partial(FlowMatchEulerDiscreteScheduler, use_dynamic_shifting=True)


def pipeline(folder: Path, scheduler: Any, **changes: Any) -> Path:
    """A pipeline's folder as far as its scheduler, with changes to the file that it saves."""
    scheduler.save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "DiTPipeline"}))
    path = folder / "scheduler" / "scheduler_config.json"
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(content))
    return folder


def scaled(scheduler: Any, index: int) -> float:
    """How much larger a latent of diffusers' scheduler is than ours, before a step."""
    if not isinstance(scheduler, EulerDiscreteScheduler):
        return 1.0
    return float(scheduler.sigmas[index].double() ** 2 + 1) ** 0.5


def walk_diffusers(scheduler: Any, monkeypatch: pytest.MonkeyPatch) -> list[Latent]:
    """Every latent on the way of diffusers' own loop, fed our noise."""
    fresh: list[Latent] = []
    for name in ("ddpm", "ddpm_parallel", "dpmsolver_multistep"):
        monkeypatch.setattr(
            f"diffusers.schedulers.scheduling_{name}.randn_tensor",
            lambda shape, **options: torch.from_numpy(fresh[-1]),
        )

    def step(index: int, latent: Latent, prediction: Prediction, noise: Latent) -> Latent:
        fresh.append(noise)
        sample = torch.from_numpy(latent.astype(np.float64) * scaled(scheduler, index))
        output, timestep = torch.from_numpy(prediction.output), scheduler.timesteps[index]
        if isinstance(scheduler, EulerDiscreteScheduler):
            # Its latents are up to 20,000 times as large as the noise: float32 loses their digits.
            with monkeypatch.context() as wider:
                wider.setattr(torch, "float32", torch.float64)
                after: Latent = scheduler.step(output, timestep, sample)[0].numpy()
            return after / np.float64(scaled(scheduler, index + 1))
        after = scheduler.step(output, timestep, sample.float())[0].numpy()
        return after

    noise_sigma = float(getattr(scheduler, "init_noise_sigma", 1.0))
    start = wide(start_latent(), scheduler) * np.float32(noise_sigma / scaled(scheduler, 0))
    return walk(scheduler.timesteps.tolist(), step, without_variance, start)


def in_float64(sigmas: torch.Tensor, timesteps: torch.Tensor, table: Any) -> torch.Tensor:
    """Euler's sigmas, which fall from 20,291 to 12 in one step, with all their digits."""
    exact = np.interp(timesteps.numpy(), np.arange(len(table)), np.sqrt((1 - table) / table))
    exact = np.append(exact, 0.0)
    np.testing.assert_allclose(sigmas.numpy(), exact, rtol=1e-6)
    return torch.from_numpy(exact)


def wide(latent: Latent, scheduler: Any) -> Any:
    return latent.astype(np.float64) if isinstance(scheduler, EulerDiscreteScheduler) else latent


def without_variance(latent: Latent, timestep: float) -> Prediction:
    return Prediction(toy_denoiser(latent, timestep).output)


def honoured(sampler: str, betas: str, predicts: str, spacing: str) -> bool:
    """Whether diffusers itself has it, and finite."""
    if betas == "no signal at the last" and predicts == "epsilon" and sampler.startswith("dd"):
        return spacing.startswith("leading") or spacing == "its own"
    return sampler != "euler" or predicts != "sample"


# diffusers copies a tensor into an array in a way that NumPy 2 tells torch to mend.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
@pytest.mark.parametrize(
    ("sampler", "betas", "predicts", "spacing"),
    [
        combination
        for combination in itertools.product(CLASSES, BETAS, PREDICTIONS, SPACINGS)
        if honoured(*combination)
    ],
)
def test_every_latent_on_the_way_is_that_of_the_pipelines_own_scheduler(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sampler: str,
    betas: str,
    predicts: str,
    spacing: str,
) -> None:
    make, options = CLASSES[sampler]
    steps = 280 if (sampler, betas, spacing) == MANY else STEPS
    scheduler = make(**options, **BETAS[betas], **SPACINGS[spacing], prediction_type=predicts)
    folder = pipeline(tmp_path, scheduler)

    manifest, notes = with_pipeline(str(folder), toy_manifest())
    ours = sampler_for(manifest, Settings(steps))

    assert notes == ()
    assert isinstance(manifest.schedule, Betas)
    # Its own table is of float32 products; that its betas are ours, this shows.
    table = manifest.schedule.alpha_bar()
    np.testing.assert_allclose(scheduler.alphas_cumprod.numpy(), table, rtol=2e-4, atol=1e-7)
    if manifest.schedule.zero_snr and sampler in (*MULTISTEP, "euler"):
        table[-1] = LEAST_SIGNAL
    scheduler.alphas_cumprod = torch.from_numpy(table)
    if sampler == "ddim to timestep 0":
        scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    scheduler.set_timesteps(steps)
    np.testing.assert_allclose(scheduler.timesteps, ours.schedule.timesteps, rtol=1e-6)
    if sampler == "euler":
        scheduler.sigmas = in_float64(scheduler.sigmas, scheduler.timesteps, table)
    start = wide(start_latent(), scheduler) * np.float32(ours.schedule.start)
    theirs = walk_diffusers(scheduler, monkeypatch)
    for one, other in zip(theirs, walk_ours(ours, without_variance, start), strict=True):
        assert relative_l2(one, other) <= 1e-5


@pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
@pytest.mark.parametrize("steps", [2, 3, STEPS])
def test_every_latent_on_the_way_is_that_of_a_flows_own_scheduler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: float, steps: int
) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    folder = pipeline(tmp_path, scheduler)

    manifest, notes = with_pipeline(str(folder), toy_manifest())
    ours = sampler_for(manifest, Settings(steps))

    assert (notes, manifest.prediction_type) == ((), "velocity")
    scheduler.set_timesteps(steps)
    np.testing.assert_allclose(scheduler.timesteps, ours.schedule.timesteps, rtol=1e-6)
    theirs = walk_diffusers(scheduler, monkeypatch)
    for one, other in zip(theirs, walk_ours(ours, without_variance), strict=True):
        assert relative_l2(one, other) <= 1e-5


@pytest.mark.parametrize("kind", ["exponential", "linear"])
@pytest.mark.parametrize("patch", [1, 2])
def test_a_dynamic_shift_goes_by_the_images_tokens(tmp_path: Path, kind: str, patch: int) -> None:
    sizes = {"base_image_seq_len": 9, "max_image_seq_len": 100, "max_shift": 2.0}
    scheduler = FLOW_OF_SIZE(time_shift_type=kind, **sizes)
    toy = toy_manifest()
    toy = dataclasses.replace(
        toy, model=dataclasses.replace(toy.model, config={"patch_size": patch})
    )

    manifest, notes = with_pipeline(str(pipeline(tmp_path, scheduler)), toy)
    ours = sampler_for(manifest, Settings(STEPS)).schedule

    slope = (2.0 - 0.5) / (100 - 9)  # Flux's calculate_shift
    scheduler.set_timesteps(STEPS, mu=(8 // patch) ** 2 * slope + 0.5 - slope * 9)
    assert notes == ()
    np.testing.assert_allclose(scheduler.timesteps, ours.timesteps, rtol=1e-6)
    np.testing.assert_allclose(scheduler.sigmas, ours.grid, rtol=1e-6)


@pytest.mark.parametrize(("clip", "linear"), [(False, True), (True, False)])
def test_a_clipped_run_is_the_hosts(tmp_path: Path, clip: bool, linear: bool) -> None:
    folder = pipeline(tmp_path, DDIMScheduler(clip_sample=clip))
    manifest, _ = with_pipeline(str(folder), toy_manifest())

    if linear:
        step_table(sampler_for(manifest, Settings(5)), learned_variance=False)
    else:
        with pytest.raises(NotLinear):
            step_table(sampler_for(manifest, Settings(5)), learned_variance=False)


def test_the_manifest_keeps_what_the_scheduler_says(tmp_path: Path) -> None:
    scheduler = DDIMScheduler(
        prediction_type="v_prediction",
        timestep_spacing="leading",
        steps_offset=1,
        set_alpha_to_one=False,
        clip_sample_range=2.0,
        rescale_betas_zero_snr=True,
        **BETAS["trained_betas"],
    )
    manifest, _ = with_pipeline(str(pipeline(tmp_path, scheduler)), toy_manifest())

    assert Manifest.from_json(manifest.to_json()) == manifest
    assert manifest.prediction_type == "v_prediction"
    assert manifest.scheduler == Scheduler("ddim", "leading", 1, False, 2.0)
    assert manifest.schedule == Betas(300, trained=manifest.schedule.trained, zero_snr=True)


def test_the_manifest_keeps_what_a_flows_scheduler_says(tmp_path: Path) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=500, shift=3.0)
    manifest, _ = with_pipeline(str(pipeline(tmp_path, scheduler)), toy_manifest())

    assert Manifest.from_json(manifest.to_json()) == manifest
    assert manifest.schedule == LinearFlow(0, 500.0, 3.0, pytest.approx(3 / 502))


@pytest.mark.parametrize(
    ("make", "changes", "found"),
    [
        (DDIMScheduler, {"clip_sample": "yes"}, "has clip_sample 'yes', not true or false"),
        (DDIMScheduler, {"clip_sample": True, "clip_sample_range": -1}, "has clip_sample_range -1"),
        (DDIMScheduler, {"thresholding": True}, "has thresholding True, and only False"),
        (DDIMScheduler, {"rescale_betas_zero_snr": 1}, "has rescale_betas_zero_snr 1"),
        (DDIMScheduler, {"set_alpha_to_one": None}, "has set_alpha_to_one None"),
        (DDIMScheduler, {"steps_offset": -1}, "has steps_offset -1, and only 0 and above"),
        (DDIMScheduler, {"timestep_spacing": "karras"}, "has timestep_spacing karras"),
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
        (
            EulerDiscreteScheduler,
            {"prediction_type": "sample"},
            "has the prediction_type 'sample', not epsilon or v_prediction",
        ),
        (
            EulerDiscreteScheduler,
            {"final_sigmas_type": "sigma_min"},
            "has final_sigmas_type sig",
        ),
        (EulerDiscreteScheduler, {"sigma_max": 10.0}, "has sigma_max 10.0, and only None"),
        (FlowMatchEulerDiscreteScheduler, {"shift": 0}, "has shift 0, not a number above 0"),
        (FlowMatchEulerDiscreteScheduler, {"shift_terminal": 0.1}, "has shift_terminal 0.1"),
        (FlowMatchEulerDiscreteScheduler, {"use_dynamic_shifting": "yes"}, "has use_dynamic_shift"),
        (FLOW_OF_SIZE, {"time_shift_type": "cosine"}, "has time_shift_type 'cosine', not exp"),
        (FLOW_OF_SIZE, {"max_image_seq_len": 256}, "has image_seq_len from 256 to 256"),
        (FLOW_OF_SIZE, {"max_shift": None}, "has max_shift None, not a number above 0"),
        (FlowMatchEulerDiscreteScheduler, {"num_train_timesteps": 1.5}, "has 1.5 timesteps"),
        (DPMSolverMultistepScheduler, {"solver_order": 3}, "has solver_order 3, and only 2"),
        (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}, "has use_karras_sigmas True"),
        (
            DPMSolverMultistepScheduler,
            {"algorithm_type": "sde-dpmsolver"},
            "has algorithm_type sde-dpmsolver, and only dpmsolver++ or sde-dpmsolver++ is",
        ),
        (UniPCMultistepScheduler, {"solver_order": 1}, "has solver_order 1, and only 2 or 3 is"),
        (UniPCMultistepScheduler, {"solver_type": "bh1"}, "has solver_type bh1, and only bh2"),
        (UniPCMultistepScheduler, {"predict_x0": False}, "has predict_x0 False, and only True"),
        (UniPCMultistepScheduler, {"disable_corrector": [0]}, "has disable_corrector [0], and"),
        (UniPCMultistepScheduler, {"use_flow_sigmas": True}, "has use_flow_sigmas True, and only"),
    ],
)
def test_what_is_not_honoured_is_refused_by_name_and_value(
    tmp_path: Path, make: Any, changes: dict[str, Any], found: str
) -> None:
    options = UNCLIPPED if make in (DDIMScheduler, DDPMScheduler) else {}
    folder = pipeline(tmp_path, make(**options), **changes)

    with pytest.raises(CheckpointError) as told:
        with_pipeline(str(folder), toy_manifest())

    assert found in one_line(told.value)
    flows = (FlowMatchEulerDiscreteScheduler, FLOW_OF_SIZE)
    other = "FlowMatchEuler" if make in flows else "DDIM"
    assert f"put a {other}" in told.value.remedy


def test_a_learned_variance_at_a_last_step_above_timestep_0_is_refused(tmp_path: Path) -> None:
    scheduler = DDPMScheduler(variance_type="learned_range", timestep_spacing="trailing")
    folder = pipeline(tmp_path, scheduler)

    with pytest.raises(CheckpointError, match="do not go down to timestep 0"):
        with_pipeline(str(folder), dataclasses.replace(toy_manifest(), learn_sigma=True))


def test_a_field_that_is_not_there_has_diffusers_own_default(tmp_path: Path) -> None:
    folder = pipeline(tmp_path, DDIMScheduler(clip_sample=False))
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"_class_name": "DDIMScheduler"}))

    manifest, _ = with_pipeline(str(folder), toy_manifest())

    assert manifest.scheduler == Scheduler("ddim", "leading", 0, True, 1.0)
    assert manifest.schedule == Betas()


def test_a_scheduler_beside_a_flow_is_refused(tmp_path: Path) -> None:
    folder = pipeline(tmp_path, DDIMScheduler())

    with pytest.raises(CheckpointError, match="is a flow by its own format"):
        with_pipeline(str(folder), flow_manifest())


def flow_manifest() -> Manifest:
    return dataclasses.replace(
        toy_manifest(), prediction_type="velocity", schedule=LinearFlow(data_at=1)
    )


def test_what_is_said_by_hand_leaves_the_scheduler_unread(tmp_path: Path) -> None:
    folder = pipeline(tmp_path, DDIMScheduler(thresholding=True))
    (folder / "model_index.json").write_text("{}")
    said = ByHand("sample", "scaled_linear:0.001:0.01:500")

    manifest, notes = with_pipeline(str(folder), toy_manifest(), said)

    assert manifest.prediction_type == "sample"
    assert manifest.schedule == Betas(500, 0.001, 0.01, "scaled_linear")
    assert "scheduler_config.json was not read" in notes[0]


def test_what_is_said_by_hand_is_laid_over_the_scheduler(tmp_path: Path) -> None:
    scheduler = DDIMScheduler(**BETAS["scaled_linear"], clip_sample=False, steps_offset=1)
    folder = pipeline(tmp_path, scheduler)

    manifest, notes = with_pipeline(str(folder), toy_manifest(), ByHand("v_prediction"))

    assert manifest.prediction_type == "v_prediction"
    assert manifest.schedule == Betas(1000, 8.5e-4, 0.012, "scaled_linear")
    assert manifest.scheduler == Scheduler("ddim", "leading", 1)
    assert notes == ()


def test_a_damaged_index_is_to_be_downloaded_again(tmp_path: Path) -> None:
    folder = pipeline(tmp_path, DDIMScheduler())
    (folder / "model_index.json").write_text("{")

    with pytest.raises(CheckpointError) as told:
        with_pipeline(str(folder), toy_manifest())
    assert told.value.remedy == "Copy or download it again"


@pytest.mark.parametrize("options", [{"num_train_timesteps": 10}, {"steps_offset": 60}])
def test_goldens_that_a_scheduler_leaves_no_room_for(
    tmp_path: Path, options: dict[str, int]
) -> None:
    write_diffusers(tmp_path / "dit" / "transformer")
    source = pipeline(tmp_path / "dit", DDIMScheduler(**UNCLIPPED, **options))

    if "steps_offset" in options:
        with pytest.raises(CheckpointError, match="the goldens cannot be drawn by"):
            export_bundle(str(source), tmp_path / "bundle", batch=1)
    else:
        assert export_bundle(str(source), tmp_path / "bundle", batch=1).passed


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
    assert "rise linearly from 0.0001 to 0.02; `--prediction` and `--betas` say" in note


def test_a_file_of_a_pipelines_transformer_alone_gets_the_note_too(tmp_path: Path) -> None:
    model = dataclasses.replace(toy_manifest().model, format="diffusers")
    manifest = dataclasses.replace(toy_manifest(), model=model)

    _, [note] = with_pipeline(str(tmp_path / "model.safetensors"), manifest)

    assert "model.safetensors has no scheduler" in note


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


COSINE = {"beta_schedule": "squaredcos_cap_v2"}
DRAWN = {
    "noise": (DDIMScheduler(**UNCLIPPED, **COSINE), True),
    "velocity": (DDIMScheduler(**UNCLIPPED, **COSINE, prediction_type="v_prediction"), True),
    "image": (DDIMScheduler(**UNCLIPPED, **COSINE, prediction_type="sample"), True),
    "clipped image": (DDIMScheduler(**COSINE, prediction_type="sample"), False),
    "from no signal": (
        DDIMScheduler(
            **UNCLIPPED,
            prediction_type="v_prediction",
            timestep_spacing="trailing",
            rescale_betas_zero_snr=True,
        ),
        True,
    ),
    "between timesteps": (EulerDiscreteScheduler(), True),
    "flow": (FlowMatchEulerDiscreteScheduler(shift=3.0), True),
}


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
@pytest.mark.parametrize("kind", DRAWN)
def test_a_pipelines_bundle_draws_what_its_transformer_and_scheduler_draw(
    tmp_path: Path, kind: str
) -> None:
    scheduler, on_the_device = DRAWN[kind]
    transformer = write_diffusers(tmp_path / "dit" / "transformer")
    source = pipeline(tmp_path / "dit", scheduler)
    report = export_bundle(str(source), tmp_path / "bundle", batch=1)
    assert report.passed

    bundle = open_bundle(tmp_path / "bundle")
    channels = bundle.manifest.latent_shape[0]
    scheduler.set_timesteps(8)
    latent = torch.from_numpy(draw_noise([7], START, bundle.manifest.latent_shape))
    latent = latent * getattr(scheduler, "init_noise_sigma", 1.0)
    for timestep in scheduler.timesteps:
        fed = latent
        if isinstance(scheduler, EulerDiscreteScheduler):
            fed = scheduler.scale_model_input(latent, timestep)
        found = diffusers_forward(transformer, fed, timestep[None], torch.tensor([2]))
        latent = scheduler.step(found[:, :channels], timestep, latent).prev_sample

    on_host = Pipeline.from_bundle(bundle.folder, backend="onnxruntime")
    on_device = Pipeline.of(open_on("onnxruntime", bundle))
    for drawing in (on_host, on_device):
        drawn = drawing([2], seeds=[7], steps=8, cfg_scale=1.0).latents
        assert relative_l2(latent.numpy(), drawn) <= 1e-4
    assert on_device.loop.keeps_latents
    requests = on_device.requests(bundle.manifest.examples(1), [7], FEW)
    assert (on_device.loop.why_not(requests) is None) is on_the_device
