"""What a diffusers pipeline says beside its transformer: scheduler, latents' scale, labels.

Every field of a scheduler is honoured, or has the one value that our samplers go by, or is refused
by its name and value: a picture from another schedule is wrong without looking broken.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import CheckpointError
from ..runtime.bundle.fields import a_number
from ..runtime.bundle.manifest import LATENT_SCALES, Manifest
from ..runtime.sampling.sampler import NOISE_PREDICTIONS
from ..runtime.sampling.schedule import BETA_RULES, Betas

INDEX, CONFIG, TRANSFORMER = "model_index.json", "config.json", "transformer"
SCHEDULER = Path("scheduler", "scheduler_config.json")
FIXED, LEARNED = "fixed_small", "learned_range"  # the variance of DDPM
# Fields that are honoured, with the value that diffusers gives one that is not there.
HONOURED: Mapping[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
}
NO_BETAS = "has betas that are no numbers in (0, 1)"
MOST_STEPS = 1_000_000
# Fields that change nothing while those above them in `EXPECTED` have their value.
IDLE = {
    "clip_sample_range",
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "flow_shift",
    "time_shift_type",
}
COMMON: Mapping[str, tuple[Any, ...]] = {
    "thresholding": (False,),
    "rescale_betas_zero_snr": (False,),
    "steps_offset": (0,),
}
# By class: the values that our samplers go by, the first of them diffusers' default if it is one.
EXPECTED: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "DDIMScheduler": {
        **COMMON,
        "clip_sample": (False,),
        "set_alpha_to_one": (True,),
        "timestep_spacing": ("leading",),
    },
    "DDPMScheduler": {
        **COMMON,
        "clip_sample": (False,),
        "variance_type": (FIXED, LEARNED),
        "timestep_spacing": ("leading",),
    },
    "DPMSolverMultistepScheduler": {
        **COMMON,
        "algorithm_type": ("dpmsolver++",),
        "solver_order": (2,),
        "solver_type": ("midpoint",),
        "lower_order_final": (True,),
        "euler_at_final": (False,),
        "use_karras_sigmas": (False,),
        "use_exponential_sigmas": (False,),
        "use_beta_sigmas": (False,),
        "use_lu_lambdas": (False,),
        "use_flow_sigmas": (False,),
        "use_dynamic_shifting": (False,),
        "final_sigmas_type": ("zero",),
        "lambda_min_clipped": (-math.inf, None),
        "variance_type": (None, LEARNED),
        "timestep_spacing": ("linspace",),
    },
}
# Of fields that are not there, where diffusers' default is not what our samplers go by.
OTHER_DEFAULTS: Mapping[str, Any] = {"clip_sample": True}


def with_pipeline(source: str, manifest: Manifest) -> tuple[Manifest, tuple[str, ...]]:
    """The manifest with what the pipeline around a checkpoint says, and notes of what it lacks.

    Args:
        source: A checkpoint's path; other than a folder of a pipeline, or the transformer in it,
            it says nothing.
        manifest: Of the checkpoint.

    Raises:
        CheckpointError: A file is damaged, or says what our samplers do not do.
    """
    folder = _pipeline_of(Path(source).resolve())
    if folder is None:
        return manifest, _notes_without(Path(source), manifest)
    if (folder / INDEX).is_file():
        manifest = _with_labels(manifest, _read(folder / INDEX).get("id2label"))
    if (folder / "vae" / CONFIG).is_file():
        manifest = _with_latents(manifest, folder / "vae" / CONFIG)
    if not (folder / SCHEDULER).is_file():
        return manifest, _notes_without(folder, manifest)
    return _with_scheduler(manifest, folder / SCHEDULER), ()


def _pipeline_of(path: Path) -> Path | None:
    """The pipeline that a path is, or is the transformer of, or a file of the transformer of."""
    around = [one.parent for one in (path, path.parent) if one.name == TRANSFORMER]
    for folder in (path, *around):
        if any((folder / name).is_file() for name in (INDEX, SCHEDULER)):
            return folder
    return None


def _notes_without(folder: Path, manifest: Manifest) -> tuple[str, ...]:
    if not folder.is_dir() or manifest.prediction_type == "velocity":
        return ()
    betas = manifest.schedule
    assert isinstance(betas, Betas)
    return (
        f"{folder} has no scheduler: the model is taken to predict the noise, and to know "
        f"{betas.train_steps} timesteps whose betas rise linearly from {betas.beta_start:g} to "
        f"{betas.beta_end:g}",
    )


def _with_scheduler(manifest: Manifest, path: Path) -> Manifest:
    content = _read(path)
    name = str(content.get("_class_name"))
    if manifest.prediction_type == "velocity":
        raise CheckpointError(
            f"{path} is a {name}, and no scheduler is honoured for a flow",
            f"Copy {path.parent.parent / TRANSFORMER} elsewhere and name that: times run evenly",
        )
    if name not in EXPECTED:
        raise _refused(path, f"is of the class {name}, not one of {', '.join(EXPECTED)}")
    _check_fields(path, content, EXPECTED[name])
    if name == "DDPMScheduler":
        _check_variance(path, content.get("variance_type", FIXED), manifest)
    said = {**HONOURED, **{field: content[field] for field in HONOURED if field in content}}
    if said["prediction_type"] not in NOISE_PREDICTIONS:
        raise _refused(path, f"has the prediction_type {said['prediction_type']!r}")
    schedule = _betas(path, said)
    return dataclasses.replace(manifest, schedule=schedule, prediction_type=said["prediction_type"])


def _check_variance(path: Path, said: str, manifest: Manifest) -> None:
    """Refuse a variance that is learned where the model learns none, and the other way round."""
    if (said == LEARNED) is not manifest.learn_sigma:
        learns = "learns" if manifest.learn_sigma else "does not learn"
        raise _refused(path, f"has variance_type {said}, and the model {learns} its variance")


def _check_fields(
    path: Path, content: Mapping[str, Any], expected: Mapping[str, tuple[Any, ...]]
) -> None:
    """Refuse a field of another value than our samplers go by, and one that nobody knows."""
    for field, values in expected.items():
        found = content.get(field, OTHER_DEFAULTS.get(field, values[0]))
        if not any(type(found) is type(value) and found == value for value in values):
            wanted = " or ".join(map(str, values))
            raise _refused(path, f"has {field} {found}, and only {wanted} is honoured")
    known = {*HONOURED, *IDLE, *expected}
    for field in content:
        if field not in known and not field.startswith("_"):
            raise _refused(path, f"has {field} {content[field]}, which is not known")


def _betas(path: Path, said: Mapping[str, Any]) -> Betas:
    steps, trained, rule = (
        said[n] for n in ("num_train_timesteps", "trained_betas", "beta_schedule")
    )
    if type(steps) is not int or not 1 <= steps <= MOST_STEPS:
        raise _refused(path, f"has {steps} timesteps")
    if trained is not None:
        return Betas(steps, trained=_trained(path, trained, steps))
    start, end, rule = said["beta_start"], said["beta_end"], said["beta_schedule"]
    if not _is_share(start) or not _is_share(end):
        raise _refused(path, NO_BETAS)
    if start > end:
        raise _refused(path, f"has betas that fall, from {start} to {end}")
    if rule not in BETA_RULES:
        raise _refused(path, f"has the beta_schedule {rule}, not one of {', '.join(BETA_RULES)}")
    return Betas(steps, float(start), float(end), rule)


def _trained(path: Path, betas: object, steps: int) -> tuple[float, ...]:
    """The betas that a model brings itself."""
    if not isinstance(betas, list) or not betas or not all(map(_is_share, betas)):
        raise _refused(path, NO_BETAS)
    if len(betas) != steps:
        raise _refused(path, f"has {len(betas)} trained_betas for {steps} timesteps")
    return tuple(map(float, betas))


def _is_share(beta: object) -> bool:
    return isinstance(beta, int | float) and not isinstance(beta, bool) and 0 < beta < 1


def _with_latents(manifest: Manifest, path: Path) -> Manifest:
    """The scale and shift that the pipeline's VAE goes with, though it is not exported."""
    content = _read(path)
    if manifest.latent_space == "pixel":
        if content.get("latent_channels") != manifest.latent_shape[0]:
            return manifest
        # Latents of one or three channels, which the model alone does not tell from an image.
        manifest = dataclasses.replace(
            manifest, latent_space="vae", latent_scale=LATENT_SCALES["vae"]
        )
    scale = content.get("scaling_factor", manifest.latent_scale)
    shift = content.get("shift_factor") or 0.0
    try:
        scale, shift = a_number({"": scale}, "", 1.0), a_number({"": shift}, "", 0.0)
    except ValueError:
        scale = 0.0
    if not scale > 0:
        raise CheckpointError(
            f"{path} has no scaling_factor above 0, or a shift_factor that is no number",
            "Name the model's own VAE with `--vae`, and take that file away",
        )
    return dataclasses.replace(manifest, latent_scale=scale, latent_shift=shift)


def _with_labels(manifest: Manifest, names: object) -> Manifest:
    """The classes' names, where the pipeline has one for each."""
    label = manifest.label
    if not isinstance(names, dict) or label.names:
        return manifest
    listed = [names.get(str(index)) for index in range(label.classes)]
    if not all(isinstance(name, str) and name for name in listed):
        return manifest
    return dataclasses.replace(
        manifest, conditions=(dataclasses.replace(label, names=tuple(map(str, listed))),)
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _refused(path, f"cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise _refused(path, "holds no JSON object")
    return content


def _refused(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path} {why}",
        "Where other samplers will do, put a DDIMScheduler's config of the same betas there; "
        f"copy {path.parent.parent / TRANSFORMER} elsewhere and name that to take DiT's betas",
    )
