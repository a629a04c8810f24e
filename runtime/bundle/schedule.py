"""A manifest's schedule and scheduler: each field of its type, or refused."""

from __future__ import annotations

from typing import Any

from ..sampling.schedule.betas import BETA_RULES, Betas
from ..sampling.schedule.flow import LinearFlow
from ..sampling.schedule.scheduler import AUTO, Scheduler
from ..sampling.schedule.spacing import SPACINGS
from .fields import a_count, a_number, a_text, one_of


def read_schedule(content: dict[str, Any]) -> Betas | LinearFlow:
    """The noise that a model was trained with, or the line of a flow.

    Raises:
        ValueError: A field is of another type, or beyond what it may be.
    """
    if "data_at" in content:
        return _flow(content)
    trained = tuple(a_number({"beta": beta}, "beta", 0.0) for beta in content.get("trained", ()))
    betas = Betas(**{**content, "trained": trained})
    a_count(betas.train_steps, "train_steps")
    one_of({"rule": betas.rule}, "rule", BETA_RULES)
    one_of({"zero_snr": betas.zero_snr}, "zero_snr", (False, True))
    if trained and (len(trained) != betas.train_steps or not all(0 < b < 1 for b in trained)):
        raise ValueError(f"{len(trained)} betas for {betas.train_steps} steps, each in (0, 1)")
    if not 0 < betas.beta_start <= betas.beta_end < 1:
        raise ValueError(f"the betas are {betas.beta_start} to {betas.beta_end}, not inside (0, 1)")
    return betas


def _flow(content: dict[str, Any]) -> LinearFlow:
    flow = LinearFlow(**content)
    one_of(content, "data_at", (0, 1))
    for name in ("unit", "shift"):
        if not a_number(content, name, 1.0) > 0:
            raise ValueError(f"{name} is {content[name]}, not above 0")
    if not 0 <= a_number(content, "least", 0.0) < 1:
        raise ValueError(f"least is {flow.least}, not in [0, 1)")
    return flow


def read_scheduler(content: dict[str, Any]) -> Scheduler:
    """How the scheduler that came with a model runs.

    Raises:
        ValueError: A field is of another type, or beyond what it may be.
    """
    scheduler = Scheduler(**content)
    a_text(scheduler.sampler, "sampler")
    one_of({"spacing": scheduler.spacing}, "spacing", (AUTO, *SPACINGS))
    a_count(scheduler.steps_offset, "steps_offset", least=0)
    one_of({"set_alpha_to_one": scheduler.set_alpha_to_one}, "set_alpha_to_one", (False, True))
    if not a_number(content, "clip_sample_range", 0.0) >= 0:
        raise ValueError(f"clip_sample_range is {scheduler.clip_sample_range}, not 0 or above")
    return scheduler
