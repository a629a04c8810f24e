"""The samplers, one a file. A new one also gets its line in one of these tables."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .... import OptionError, one_of
from ..sampler import EPSILON, Sampler
from ..schedule import FlowSchedule, Schedule
from ..schedule.betas import Betas
from ..schedule.flow import LinearFlow
from ..schedule.scheduler import AUTO, NONE, Scheduler
from ..schedule.shift import DynamicShift
from ..schedule.spacing import LEADING, LINSPACE, OFFICIAL, Spacing
from ..shift import read_shift
from .ddim import Ddim
from .ddpm import Ddpm
from .dpmpp_2m import Dpmpp2m
from .dpmpp_2m_sde import Dpmpp2mSde
from .euler import Euler
from .euler_maruyama import LAST, EulerMaruyama
from .heun import Heun
from .unipc import UniPc

if TYPE_CHECKING:
    from ...bundle.manifest import Manifest
    from ..settings import Settings

LEAST_SIGNAL = 2.0**-24  # at the last timestep, for rules that divide by it; diffusers' own
NEAR_NOISE = 0.75  # of training's timesteps: where a run of many steps must begin at least


@dataclass(frozen=True)
class Named:
    """A sampler for models that find noise or image at training timesteps.

    Attributes:
        make: The rule, of its schedule, of what the model predicts and of the clip.
        spacing: Of its timesteps, where nobody asks for another.
        open_ended: Whether it leaves out the cleanest of ``steps + 1``.
        whole: Whether its timesteps are whole in ``linspace`` too.
        strided: Whether a step ends a whole stride below its timestep, wherever the next is.
        divides: Whether it divides by the signal that is left.
    """

    make: Callable[[Schedule, str, float], Sampler]
    spacing: str
    open_ended: bool = False
    whole: bool = True
    strided: bool = False
    divides: bool = False


SAMPLERS: dict[str, Named] = {
    "ddpm": Named(Ddpm, OFFICIAL),
    "ddim": Named(
        lambda visits, found, clip: Ddim(visits, 0.0, found, clip), LEADING, strided=True
    ),
    "dpmpp_2m": Named(
        lambda visits, found, _: Dpmpp2m(visits, found), LINSPACE, open_ended=True, divides=True
    ),
    "dpmpp_2m_sde": Named(
        lambda visits, found, _: Dpmpp2mSde(visits, found), LINSPACE, open_ended=True, divides=True
    ),
    "unipc": Named(
        lambda visits, found, _: UniPc(visits, found), LINSPACE, open_ended=True, divides=True
    ),
    "unipc_3": Named(
        lambda visits, found, _: UniPc(visits, found, 3), LINSPACE, open_ended=True, divides=True
    ),
    "euler": Named(
        lambda visits, found, _: Ddim(visits, 0.0, found), LINSPACE, whole=False, divides=True
    ),
}

# For flows.
FLOW_SAMPLERS: dict[
    str, tuple[Callable[[FlowSchedule], Sampler], Callable[[LinearFlow, int], FlowSchedule]]
] = {
    "euler": (Euler, LinearFlow.visit),
    "heun": (Heun, LinearFlow.visit_twice),
    "euler_maruyama": (
        EulerMaruyama,
        lambda flow, steps: dataclasses.replace(flow, least=LAST).visit(steps),
    ),
}


def samplers_for(manifest: Manifest) -> list[str]:
    """The names of those that go with a bundle's model."""
    return [*(FLOW_SAMPLERS if isinstance(manifest.schedule, LinearFlow) else SAMPLERS)]


def default_sampler(manifest: Manifest) -> str:
    """What ``auto`` stands for: the model's own, or what is deterministic at one call a step."""
    if manifest.scheduler.sampler != AUTO:
        return manifest.scheduler.sampler
    return "euler" if isinstance(manifest.schedule, LinearFlow) else "ddim"


def settled(manifest: Manifest, settings: Settings) -> Settings:
    """``settings`` with the names of sampler and spacing in the place of ``auto``."""
    name = default_sampler(manifest) if settings.sampler == AUTO else settings.sampler
    if isinstance(manifest.schedule, LinearFlow) or name not in SAMPLERS:
        return dataclasses.replace(settings, sampler=name)
    spacing = _spacing(settings.spacing, manifest.scheduler, SAMPLERS[name])
    return dataclasses.replace(settings, sampler=name, spacing=spacing)


def _spacing(asked: str, scheduler: Scheduler, named: Named) -> str:
    """What is asked for, else the scheduler's, else the sampler's own."""
    return next(one for one in (asked, scheduler.spacing, named.spacing) if one != AUTO)


def training_for(manifest: Manifest, settings: Settings) -> Betas | LinearFlow:
    """What the model was trained on, a flow's times shifted as ``settings`` says.

    Raises:
        OptionError: A shift is asked for where there are no times, or none is known for the size.
    """
    if settings.shift is None:
        return manifest.schedule
    if not isinstance(manifest.schedule, LinearFlow):
        raise OptionError(
            f"The shift {settings.shift} is for a flow, and this model has timesteps",
            "Leave it out",
        )
    shift = read_shift(settings.shift)
    if isinstance(shift, DynamicShift):
        return manifest.schedule.shifted(shift.of(tokens_of(manifest)), dynamic=True)
    return manifest.schedule.shifted(shift)


def tokens_of(manifest: Manifest) -> int:
    """Of an image, as diffusers counts its sequence."""
    patch, (_, rows, columns) = manifest.model.config.get("patch_size"), manifest.latent_shape
    if type(patch) is not int or patch < 1:
        raise OptionError(
            "The bundle's model does not say how many tokens an image has",
            "Give the shift as a number",
        )
    return (rows // patch) * (columns // patch)


def sampler_for(manifest: Manifest, settings: Settings, strength: float = 1.0) -> Sampler:
    """The rule that ``settings`` names, on the timesteps of a bundle's model.

    Args:
        manifest: Of the bundle.
        settings: Of the run.
        strength: The share of its steps that are taken, the last ones.

    Raises:
        OptionError: There is no such sampler or spacing, or it does not go with the rest.
    """
    settings = settled(manifest, settings)
    return make_sampler(
        settings.sampler,
        training_for(manifest, settings),
        settings.steps,
        eta=settings.eta,
        predicts=manifest.prediction_type,
        spacing=settings.spacing,
        scheduler=manifest.scheduler,
        strength=strength,
    )


@functools.lru_cache(maxsize=32)
def make_sampler(
    name: str,
    training: Betas | LinearFlow,
    steps: int,
    *,
    eta: float = 0.0,
    predicts: str = EPSILON,
    spacing: str = AUTO,
    scheduler: Scheduler = NONE,
    strength: float = 1.0,
) -> Sampler:
    """Make the sampler that ``--sampler`` calls ``name``, on the timesteps that belong to it.

    Args:
        name: A key of `SAMPLERS`, or of `FLOW_SAMPLERS` for a flow.
        training: What the model was trained with.
        steps: Denoiser calls, from 1 to ``training.most_steps``.
        eta: For ddim alone: the share of DDPM's noise that is drawn afresh, in [0, 1].
        predicts: What the model finds where it is no flow: ``epsilon``, ``v_prediction`` or
            ``sample``.
        spacing: Of the timesteps, one of ``SPACINGS``; ``auto`` for the scheduler's or sampler's
            own.
        scheduler: What came with the model.
        strength: The share of the steps that are taken, the last ones.

    Returns:
        The same one for the same arguments: it keeps no state.
    """
    fitting = FLOW_SAMPLERS if isinstance(training, LinearFlow) else SAMPLERS
    _check_name(name, fitting)
    _check_eta(name, eta)
    if isinstance(training, LinearFlow):
        if spacing != AUTO:
            raise OptionError(
                f"The spacing {spacing} is for models with timesteps, and this one has times",
                "Leave it out",
            )
        rule, visit = FLOW_SAMPLERS[name]
        return rule(visit(training, steps).last(strength))
    schedule = _visits(SAMPLERS[name], training, steps, spacing, scheduler).last(strength)
    if predicts == EPSILON and schedule.alpha_bar[0] == 0:
        raise OptionError(
            f"The run begins at timestep {schedule.timesteps[0]}, which holds noise alone, and of "
            "that a model that predicts epsilon tells nothing",
            f"Choose the spacing {LEADING}, or the sampler dpmpp_2m",
        )
    made = SAMPLERS[name].make(schedule, predicts, scheduler.clip_sample_range)
    return dataclasses.replace(made, eta=eta) if isinstance(made, Ddim) else made


def _visits(
    named: Named, training: Betas, steps: int, asked: str, scheduler: Scheduler
) -> Schedule:
    name = _spacing(asked, scheduler, named)
    spacing = Spacing(name, scheduler.steps_offset, named.open_ended, named.whole)
    timesteps = spacing.timesteps(steps, training.train_steps)
    if name == LEADING:
        _check_start(float(timesteps[0]), steps, training.train_steps)
    schedule = training.visit(
        timesteps,
        stride=training.train_steps // steps if named.strided and name != OFFICIAL else None,
        last=1.0 if scheduler.set_alpha_to_one or not named.strided else training.alpha_bar()[0],
        least=LEAST_SIGNAL if named.divides else 0.0,
    )
    if named.whole:
        return schedule
    return dataclasses.replace(schedule, start=_start(schedule, leading=name == LEADING))


def _start(schedule: Schedule, *, leading: bool) -> float:
    """What diffusers' Euler makes of the first noise: as large as where the run's signal is least.

    That is where it begins, but in a long run down to no signal, whose last timestep is given some.
    """
    least = float(schedule.alpha_bar.min())
    larger = float(schedule.alpha_bar[0]) / least
    return float(math.sqrt(larger if leading else larger * (1 - least)))


def _check_start(first: float, steps: int, train_steps: int) -> None:
    """Refuse so many steps at a whole stride that the first is far from the noise."""
    if 2 * steps > train_steps and first < NEAR_NOISE * train_steps:
        raise OptionError(
            f"{steps} {LEADING} steps of {train_steps} begin at timestep {first:.0f}, where much "
            "of an image should be left, and a run begins with none",
            f"Choose at most {train_steps // 2} steps, or the spacing trailing",
        )


def _check_eta(name: str, eta: float) -> None:
    if not 0 <= eta <= 1:
        raise OptionError(
            f"eta is {eta}", "Choose 0 (no fresh noise) to 1 (as much fresh noise as ddpm)"
        )
    if eta > 0 and name != "ddim":
        raise OptionError(
            f"eta is {eta}, but the sampler {name} has no eta",
            "Leave eta at 0, or choose the sampler ddim",
        )


def _check_name(name: str, fitting: Iterable[str]) -> None:
    if name not in {*SAMPLERS, *FLOW_SAMPLERS}:
        raise one_of("sampler", name, fitting)
    if name not in fitting:
        raise OptionError(
            f"The sampler {name} is not for this model, which predicts "
            + ("a velocity" if name in SAMPLERS else "the noise"),
            f"Choose one of: {', '.join(fitting)}",
        )
