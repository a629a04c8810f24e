"""Taking turns: what disturbs one contender of a measurement disturbs all of them alike."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import TypeVar

Measured = TypeVar("Measured")

WARM_UPS = 1  # rounds


def interleave(
    contenders: Mapping[str, Callable[[], Measured]],
    rounds: int,
    *,
    warm_ups: int = WARM_UPS,
    seed: int = 0,
    on_turn: Callable[[], None] = lambda: None,
) -> dict[str, list[Measured]]:
    """Let every contender have a turn in every round, in an order drawn anew for each round.

    A fixed order would always give a contender the same one before it, whose heat and caches it
    would find.

    Args:
        contenders: By name, each a function that measures itself once.
        rounds: How many are kept.
        warm_ups: How many are taken before these, and thrown away.
        seed: Of the orders.
        on_turn: Called after every turn.

    Returns:
        What each contender measured, a value for each round.
    """
    drawn = random.Random(seed)
    kept: dict[str, list[Measured]] = {name: [] for name in contenders}
    for index in range(-warm_ups, rounds):
        for name in drawn.sample(list(contenders), len(contenders)):
            measured = contenders[name]()
            on_turn()
            if index >= 0:
                kept[name].append(measured)
    return kept
