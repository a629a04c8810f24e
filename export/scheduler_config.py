"""A diffusers scheduler's config as our samplers take it, or refused by the field that they do not.

Every field is honoured, or has the one value that our samplers go by, or is refused by its name
and value: a picture from another schedule is wrong without looking broken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import CheckpointError
from ..runtime.bundle.manifest import Manifest
from ..runtime.sampling.sampler import EPSILON, NOISE_PREDICTIONS, V_PREDICTION
from ..runtime.sampling.samplers import tokens_of
from ..runtime.sampling.schedule.betas import BETA_RULES, LINEAR, Betas
from ..runtime.sampling.schedule.flow import LinearFlow
from ..runtime.sampling.schedule.scheduler import Scheduler
from ..runtime.sampling.schedule.shift import EXPONENTIAL, MOST_SHIFT, DynamicShift
from ..runtime.sampling.schedule.shift import LINEAR as LINEAR_MU
from ..runtime.sampling.schedule.spacing import LEADING, LINSPACE, TRAILING

VELOCITY = "velocity"
FIXED, LEARNED = "fixed_small", "learned_range"  # the variance of DDPM
SDE = "sde-dpmsolver++"
NO_BETAS = "has betas that are no numbers in (0, 1)"
MOST_STEPS = 1_000_000

OF_NOISE = (
    "Where other samplers will do, put a DDIMScheduler's config of the same betas and prediction "
    "there, or say both `--prediction` and `--betas`, which leave that file unread"
)
OF_FLOW = (
    "Where plain flow matching will do, put a FlowMatchEulerDiscreteScheduler's config of the same "
    "shift there, without that"
)

Defaults = Mapping[str, Any]
Expected = Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Known:
    """A class of diffusers' that is honoured.

    Attributes:
        sampler: Ours that does the same.
        honoured: Fields that are taken as they are, with diffusers' default of each.
        expected: Fields that must have one of these values, the first of them diffusers' default.
        idle: Fields that change nothing while those of ``expected`` have their values.
        others: A field, a value, and ours that does the same where the field has it.
    """

    sampler: str
    honoured: Defaults
    expected: Expected
    idle: frozenset[str] = frozenset()
    others: tuple[tuple[str, object, str], ...] = ()

    def sampler_of(self, content: Mapping[str, Any]) -> str:
        """Ours that does what a config says."""
        said = (name for field, value, name in self.others if content.get(field) == value)
        return next(said, self.sampler)


BETAS: Defaults = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": LINEAR,
    "trained_betas": None,
    "prediction_type": EPSILON,
    "rescale_betas_zero_snr": False,
    "steps_offset": 0,
}
CLIPPED: Defaults = {
    **BETAS,
    "timestep_spacing": LEADING,
    "clip_sample": True,
    "clip_sample_range": 1.0,
}
OTHER_SIGMAS: Expected = {
    "use_karras_sigmas": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
}
NOT_THRESHOLDED: Expected = {"thresholding": (False,)}
OF_THRESHOLDING = frozenset({"dynamic_thresholding_ratio", "sample_max_value"})
MULTISTEP: Expected = {
    **NOT_THRESHOLDED,
    **OTHER_SIGMAS,
    "lower_order_final": (True,),
    "use_flow_sigmas": (False, None),
    "use_dynamic_shifting": (False,),
    "final_sigmas_type": ("zero",),
}
DYNAMIC: Defaults = {
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "time_shift_type": EXPONENTIAL,
}
OF_MULTISTEP = OF_THRESHOLDING | {"flow_shift", "time_shift_type"}

DDIM = Known("ddim", {**CLIPPED, "set_alpha_to_one": True}, NOT_THRESHOLDED, OF_THRESHOLDING)
DDPM = Known("ddpm", {**CLIPPED, "variance_type": FIXED}, NOT_THRESHOLDED, OF_THRESHOLDING)
KNOWN: Mapping[str, Known] = {
    "DDIMScheduler": DDIM,
    "DDIMParallelScheduler": DDIM,
    "DDPMScheduler": DDPM,
    "DDPMParallelScheduler": DDPM,
    "DPMSolverMultistepScheduler": Known(
        "dpmpp_2m",
        {**BETAS, "timestep_spacing": LINSPACE},
        {
            **MULTISTEP,
            "algorithm_type": ("dpmsolver++", SDE),
            "solver_order": (2,),
            "solver_type": ("midpoint",),
            "euler_at_final": (False,),
            "use_lu_lambdas": (False, None),
            "lambda_min_clipped": (-math.inf, None),
            "variance_type": (None, LEARNED),
        },
        OF_MULTISTEP,
        (("algorithm_type", SDE, "dpmpp_2m_sde"),),
    ),
    "UniPCMultistepScheduler": Known(
        "unipc",
        {**BETAS, "timestep_spacing": LINSPACE},
        {
            **MULTISTEP,
            "solver_order": (2, 3),
            "solver_type": ("bh2", "midpoint", "heun", "logrho"),  # diffusers takes all for bh2
            "predict_x0": (True,),
            "disable_corrector": ([],),
            "solver_p": (None,),
            "sigma_min": (None,),
            "sigma_max": (None,),
            "shift_terminal": (None,),
        },
        OF_MULTISTEP,
        (("solver_order", 3, "unipc_3"),),
    ),
    "EulerDiscreteScheduler": Known(
        "euler",
        {**BETAS, "timestep_spacing": LINSPACE},
        {
            **OTHER_SIGMAS,
            "interpolation_type": ("linear",),
            "timestep_type": ("discrete",),
            "final_sigmas_type": ("zero",),
            "sigma_min": (None,),
            "sigma_max": (None,),
        },
    ),
    "FlowMatchEulerDiscreteScheduler": Known(
        "euler",
        {"num_train_timesteps": 1000, "shift": 1.0, "use_dynamic_shifting": False, **DYNAMIC},
        {
            **OTHER_SIGMAS,
            "invert_sigmas": (False,),
            "shift_terminal": (None,),
            "stochastic_sampling": (False,),
        },
    ),
}


@dataclass(frozen=True)
class Honoured:
    """What a config says.

    Attributes:
        schedule: The noise that the model was trained with.
        scheduler: How a run goes by it.
        prediction_type: What the model predicts.
        variance_type: DDPM's, or None.
    """

    schedule: Betas | LinearFlow
    scheduler: Scheduler
    prediction_type: str
    variance_type: str | None = None


def read_config(path: Path, content: Mapping[str, Any], manifest: Manifest) -> Honoured:
    """What the config of a scheduler says.

    Args:
        path: Of the file, for messages.
        content: Of the file.
        manifest: Of the model, whose tokens a dynamic shift goes by.

    Raises:
        CheckpointError: A field has a value that no sampler of ours goes by, or is not known.
    """
    name = str(content.get("_class_name"))
    if name not in KNOWN:
        remedy = OF_FLOW if "Flow" in name else OF_NOISE
        raise refused(path, f"is of the class {name}, not one of {', '.join(KNOWN)}", remedy)
    known = KNOWN[name]
    _check_fields(path, content, known)
    said = {field: content.get(field, default) for field, default in known.honoured.items()}
    if "shift" in said:
        return Honoured(_flow(path, said, manifest), Scheduler(known.sampler), VELOCITY)
    predicts = said["prediction_type"]
    honoured = (EPSILON, V_PREDICTION) if known.sampler == "euler" else NOISE_PREDICTIONS
    if predicts not in honoured:
        raise refused(path, f"has the prediction_type {predicts!r}, not {' or '.join(honoured)}")
    schedule, scheduler = _betas(path, said), _scheduler(path, said, known.sampler_of(content))
    return Honoured(schedule, scheduler, predicts, _variance_type(path, said, scheduler))


def _check_fields(path: Path, content: Mapping[str, Any], known: Known) -> None:
    """Refuse a field of another value than our samplers go by, and one that nobody knows."""
    for field, values in known.expected.items():
        found = content.get(field, values[0])
        if not any(type(found) is type(value) and found == value for value in values):
            wanted = " or ".join(str(value) for value in values if value is not None)
            why = f"has {field} {found}, and only {wanted or None} is honoured"
            raise refused(path, why, _remedy(known))
    every = {*known.honoured, *known.expected, *known.idle}
    for field in content:
        if field not in every and not field.startswith("_"):
            raise refused(path, f"has {field} {content[field]}, which is not known", _remedy(known))


def _scheduler(path: Path, said: Mapping[str, Any], sampler: str) -> Scheduler:
    spacing, offset = said["timestep_spacing"], said["steps_offset"]
    if spacing not in (LEADING, LINSPACE, TRAILING):
        raise refused(path, f"has timestep_spacing {spacing}, and only {LEADING}, {LINSPACE} or "
                            f"{TRAILING} is honoured")  # fmt: skip
    if type(offset) is not int or not 0 <= offset < said["num_train_timesteps"]:
        raise refused(path, f"has steps_offset {offset}, and only 0 and above is honoured")
    to_one = _truth(path, said, "set_alpha_to_one") if "set_alpha_to_one" in said else True
    clip = 0.0
    if "clip_sample" in said and _truth(path, said, "clip_sample"):
        clip = _positive(path, said, "clip_sample_range", 1e6)
    return Scheduler(sampler, spacing, offset, to_one, clip)


def _variance_type(path: Path, said: Mapping[str, Any], scheduler: Scheduler) -> str | None:
    """DDPM's; diffusers adds noise at its last step where that is not at timestep 0, we never."""
    found = said.get("variance_type")
    if "variance_type" in said and found not in (FIXED, LEARNED):
        raise refused(path, f"has variance_type {found}, and only {FIXED} or {LEARNED} is honoured")
    to_zero = scheduler.spacing != TRAILING and not scheduler.steps_offset
    if found == LEARNED and not to_zero:
        raise refused(
            path,
            f"has variance_type {LEARNED} with timestep_spacing {scheduler.spacing} and "
            f"steps_offset {scheduler.steps_offset}, which do not go down to timestep 0",
        )
    return found


def _betas(path: Path, said: Mapping[str, Any]) -> Betas:
    steps, trained, rule = (
        said[n] for n in ("num_train_timesteps", "trained_betas", "beta_schedule")
    )
    zero_snr = _truth(path, said, "rescale_betas_zero_snr")
    if type(steps) is not int or not 1 <= steps <= MOST_STEPS:
        raise refused(path, f"has {steps} timesteps")
    if trained is not None:
        return Betas(steps, trained=_trained(path, trained, steps), zero_snr=zero_snr)
    start, end = said["beta_start"], said["beta_end"]
    if not _is_share(start) or not _is_share(end):
        raise refused(path, NO_BETAS)
    if start > end:
        raise refused(path, f"has betas that fall, from {start} to {end}")
    if rule not in BETA_RULES:
        raise refused(path, f"has the beta_schedule {rule}, not one of {', '.join(BETA_RULES)}")
    return Betas(steps, float(start), float(end), rule, zero_snr=zero_snr)


def _trained(path: Path, betas: object, steps: int) -> tuple[float, ...]:
    """The betas that a model brings itself."""
    if not isinstance(betas, list) or not betas or not all(map(_is_share, betas)):
        raise refused(path, NO_BETAS)
    if len(betas) != steps:
        raise refused(path, f"has {len(betas)} trained_betas for {steps} timesteps")
    return tuple(map(float, betas))


def _flow(path: Path, said: Mapping[str, Any], manifest: Manifest) -> LinearFlow:
    """Its steps begin at shares of noise from 1 to that of the first timestep, shifted twice.

    A dynamic shift, which goes by the image's size, shifts that of the first timestep once.
    """
    steps = said["num_train_timesteps"]
    if type(steps) is not int or not 1 <= steps <= MOST_STEPS:
        raise refused(path, f"has {steps} timesteps", OF_FLOW)
    flow = LinearFlow(0, float(steps), 1.0, 1 / steps)
    if _truth(path, said, "use_dynamic_shifting"):
        return flow.shifted(_dynamic(path, said).of(tokens_of(manifest)), dynamic=True)
    return flow.shifted(_positive(path, said, "shift", MOST_SHIFT))


def _dynamic(path: Path, said: Mapping[str, Any]) -> DynamicShift:
    """How the shift goes by the image's size."""
    sizes = [said[field] for field in ("base_image_seq_len", "max_image_seq_len")]
    if not all(type(size) is int and 1 <= size <= MOST_STEPS for size in sizes) or (
        sizes[0] == sizes[1]
    ):
        raise refused(path, f"has image_seq_len from {sizes[0]!r} to {sizes[1]!r}", OF_FLOW)
    kind = said["time_shift_type"]
    if kind not in (EXPONENTIAL, LINEAR_MU):
        raise refused(path, f"has time_shift_type {kind!r}, not exponential or linear", OF_FLOW)
    base, most = (_positive(path, said, f"{end}_shift", MOST_SHIFT) for end in ("base", "max"))
    return DynamicShift(base, most, sizes[0], sizes[1], kind)


def _truth(path: Path, said: Mapping[str, Any], field: str) -> bool:
    if not isinstance(said[field], bool):
        why = f"has {field} {said[field]!r}, not true or false"
        raise refused(path, why, OF_FLOW if "shift" in field else OF_NOISE)
    return bool(said[field])


def _positive(path: Path, said: Mapping[str, Any], field: str, most: float) -> float:
    found = said[field]
    if not isinstance(found, int | float) or isinstance(found, bool) or not 0 < found <= most:
        why = f"has {field} {found!r}, not a number above 0 and up to {most:g}"
        raise refused(path, why, OF_FLOW if "shift" in field else OF_NOISE)
    return float(found)


def _is_share(beta: object) -> bool:
    return isinstance(beta, int | float) and not isinstance(beta, bool) and 0 < beta < 1


def _remedy(known: Known) -> str:
    return OF_FLOW if "shift" in known.honoured else OF_NOISE


def refused(path: Path, why: str, remedy: str = OF_NOISE) -> CheckpointError:
    return CheckpointError(f"{path} {why}", remedy)
