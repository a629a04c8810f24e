"""The samplers, one a file. A new one also gets its line in this table."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import OptionError, one_of
from ..sampler import Sampler
from ..schedule import (
    LinearBetas,
    Schedule,
    Timesteps,
    leading_timesteps,
    linspace_timesteps,
    open_timesteps,
)
from .ddim import Ddim
from .ddpm import Ddpm
from .dpmpp_2m import Dpmpp2m

SAMPLERS: dict[str, tuple[Callable[[Schedule], Sampler], Callable[[int, int], Timesteps]]] = {
    "ddpm": (Ddpm, linspace_timesteps),
    "ddim": (Ddim, leading_timesteps),
    "dpmpp_2m": (Dpmpp2m, open_timesteps),
}


def make_sampler(name: str, betas: LinearBetas, steps: int, *, eta: float = 0.0) -> Sampler:
    """Make the sampler that ``--sampler`` calls ``name``, on the timesteps that belong to it.

    Args:
        name: A key of `SAMPLERS`.
        betas: What the model was trained with.
        steps: In [1, ``betas.train_steps``].
        eta: For ddim alone: the share of DDPM's noise that is drawn afresh, in [0, 1].
    """
    if name not in SAMPLERS:
        raise one_of("sampler", name, SAMPLERS)
    if not 0 <= eta <= 1:
        raise OptionError(
            f"eta is {eta}", "Choose 0 (no fresh noise) to 1 (as much fresh noise as ddpm)"
        )
    if eta > 0 and name != "ddim":
        raise OptionError(
            f"eta is {eta}, but the sampler {name} has no eta",
            "Leave eta at 0, or choose the sampler ddim",
        )
    sampler, spread = SAMPLERS[name]
    schedule = betas.visit(spread(steps, betas.train_steps))
    return Ddim(schedule, eta) if name == "ddim" else sampler(schedule)
