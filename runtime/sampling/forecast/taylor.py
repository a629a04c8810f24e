"""Factors that need no fit: the Taylor series of order 2 (Liu et al., TaylorSeer, 2025)."""

from __future__ import annotations

from .plan import Plan, evenly


def taylor_plan(steps: int, calls: int) -> Plan:
    """Calls spread evenly, the first and the last step among them, and Taylor's sums between.

    Args:
        steps: Of the run.
        calls: From 3 to ``steps``.
    """
    called = evenly(steps, calls)
    factors: list[tuple[float, ...]] = []
    for step in range(steps):
        before = [call for call in reversed(called) if call <= step][:3]
        factors.append(() if step in called else taylor_factors(step, before))
    return Plan(tuple(factors))


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
