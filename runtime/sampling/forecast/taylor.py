"""Factors that need no fit: the Taylor series of order 2 (Liu et al., TaylorSeer, 2025)."""

from __future__ import annotations

from collections.abc import Collection

from .plan import Plan, evenly


def taylor_plan(steps: int, calls: int, changes: Collection[int] = ()) -> Plan:
    """Calls spread evenly, the first and the last step among them, and Taylor's sums between.

    Args:
        steps: Of the run.
        calls: From 3 to ``steps``.
        changes: Steps at which guidance begins or ends, where what was said is no longer a start:
            they are called, as far as there are calls for it, and no sum reaches over them.
    """
    called = _moved(evenly(steps, calls), changes)
    factors: list[tuple[float, ...]] = []
    for step in range(steps):
        since = max(
            (change for change in changes if change <= step and change in called), default=0
        )
        before = [call for call in reversed(called) if since <= call <= step][:3]
        factors.append(() if step in called else taylor_factors(step, before))
    return Plan(tuple(factors))


def _moved(called: tuple[int, ...], changes: Collection[int]) -> tuple[int, ...]:
    """The calls, the nearest of them moved to each change; the first and the last stay."""
    for change in sorted(changes):
        free = [call for call in called[1:-1] if call not in changes]
        if change not in called and free:
            nearest = min(free, key=lambda call: abs(call - change))
            called = tuple(sorted({*called, change} - {nearest}))
    return called


def taylor_factors(step: int, called: list[int]) -> tuple[float, ...]:
    """Of the last one to three predictions, newest first, for what the next would be at ``step``.

    Derivatives are differences over the steps between calls, as TaylorSeer takes them; distances
    need not be alike.
    """
    ahead = step - called[0]
    if len(called) == 1:
        return (1.0,)
    near = called[0] - called[1]
    if len(called) == 2:
        return (1 + ahead / near, -ahead / near)
    far = called[1] - called[2]
    bend = ahead**2 / (2 * near)
    return (
        1 + ahead / near + bend / near,
        -ahead / near - bend / near - bend / far,
        bend / far,
    )
