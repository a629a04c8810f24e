"""The samplers, one a file. A new one also gets its line in one of these tables."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

from .... import OptionError, one_of
from ..sampler import EPSILON, Sampler
from ..schedule import (
    Betas,
    FlowSchedule,
    LinearFlow,
    Schedule,
    Timesteps,
    leading_timesteps,
    linspace_timesteps,
    open_timesteps,
)
from .converted import Converted
from .ddim import Ddim
from .ddpm import Ddpm
from .dpmpp_2m import Dpmpp2m
from .euler import Euler
from .heun import Heun

AUTO = "auto"

# For models that find the noise at training timesteps.
SAMPLERS: dict[str, tuple[Callable[[Schedule], Sampler], Callable[[int, int], Timesteps]]] = {
    "ddpm": (Ddpm, linspace_timesteps),
    "ddim": (Ddim, leading_timesteps),
    "dpmpp_2m": (Dpmpp2m, open_timesteps),
}

# For flows.
FLOW_SAMPLERS: dict[
    str, tuple[Callable[[FlowSchedule], Sampler], Callable[[LinearFlow, int], FlowSchedule]]
] = {
    "euler": (Euler, LinearFlow.visit),
    "heun": (Heun, LinearFlow.visit_twice),
}


def default_sampler(training: Betas | LinearFlow) -> str:
    """What ``auto`` stands for: deterministic, and one denoiser call a step."""
    return "euler" if isinstance(training, LinearFlow) else "ddim"


@functools.lru_cache(maxsize=32)
def make_sampler(
    name: str,
    training: Betas | LinearFlow,
    steps: int,
    *,
    eta: float = 0.0,
    predicts: str = EPSILON,
) -> Sampler:
    """Make the sampler that ``--sampler`` calls ``name``, on the timesteps that belong to it.

    Args:
        name: A key of `SAMPLERS`, or of `FLOW_SAMPLERS` for a flow; or ``auto``.
        training: What the model was trained with.
        steps: Denoiser calls, from 1 to ``training.most_steps``.
        eta: For ddim alone: the share of DDPM's noise that is drawn afresh, in [0, 1].
        predicts: What the model finds where it is no flow: ``epsilon``, ``v_prediction`` or
            ``sample``.

    Returns:
        The same one for the same arguments: it keeps no state.
    """
    name = default_sampler(training) if name == AUTO else name
    fitting = FLOW_SAMPLERS if isinstance(training, LinearFlow) else SAMPLERS
    _check_name(name, fitting)
    if not 0 <= eta <= 1:
        raise OptionError(
            f"eta is {eta}", "Choose 0 (no fresh noise) to 1 (as much fresh noise as ddpm)"
        )
    if eta > 0 and name != "ddim":
        raise OptionError(
            f"eta is {eta}, but the sampler {name} has no eta",
            "Leave eta at 0, or choose the sampler ddim",
        )
    if isinstance(training, LinearFlow):
        rule, visit = FLOW_SAMPLERS[name]
        return rule(visit(training, steps))
    sampler, spread = SAMPLERS[name]
    schedule = training.visit(spread(steps, training.train_steps))
    made = Ddim(schedule, eta) if name == "ddim" else sampler(schedule)
    return made if predicts == EPSILON else Converted(made, schedule, predicts)


def _check_name(name: str, fitting: Iterable[str]) -> None:
    if name not in {*SAMPLERS, *FLOW_SAMPLERS}:
        raise one_of("sampler", name, fitting)
    if name not in fitting:
        raise OptionError(
            f"The sampler {name} is not for this model, which predicts "
            + ("a velocity" if name in SAMPLERS else "the noise"),
            f"Choose one of: {', '.join(fitting)}",
        )
