"""A manifest's schedule: each field of its type, or refused."""

from __future__ import annotations

from typing import Any

from ..sampling.schedule import BETA_RULES, Betas, LinearFlow
from .fields import a_count, a_number, one_of


def read_schedule(content: dict[str, Any]) -> Betas | LinearFlow:
    """The noise that a model was trained with, or the line of a flow.

    Raises:
        ValueError: A field is of another type, or beyond what it may be.
    """
    if "data_at" in content:
        flow = LinearFlow(**content)
        one_of(content, "data_at", (0, 1))
        return flow
    trained = tuple(a_number({"beta": beta}, "beta", 0.0) for beta in content.get("trained", ()))
    betas = Betas(**{**content, "trained": trained})
    a_count(betas.train_steps, "train_steps")
    one_of({"rule": betas.rule}, "rule", BETA_RULES)
    if trained and (len(trained) != betas.train_steps or not all(0 < b < 1 for b in trained)):
        raise ValueError(f"{len(trained)} betas for {betas.train_steps} steps, each in (0, 1)")
    if not 0 < betas.beta_start <= betas.beta_end < 1:
        raise ValueError(f"the betas are {betas.beta_start} to {betas.beta_end}, not inside (0, 1)")
    return betas
