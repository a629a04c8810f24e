"""The factors of a plan: the sums of what was said that come nearest to what would be said."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..runtime.sampling.forecast.plan import Plan
from .gram import Doubles, least_squares
from .search import TERMS
from .trajectories import Walked


def fit_plan(products: Doubles, called: Sequence[int], variances: tuple[float, ...]) -> Plan:
    """The plan of some called steps.

    Args:
        products: float64 [step, step], of `gram`.
        called: The steps, 0 among them.
        variances: Of `mean_variances`.
    """
    factors: list[tuple[float, ...]] = []
    for step in range(len(products)):
        before = [call for call in sorted(called, reverse=True) if call <= step][:TERMS]
        if step in before:
            factors.append(())
            continue
        matrix, wanted = products[np.ix_(before, before)], products[before, step]
        fitted = least_squares(matrix, wanted, np.asarray(products[before[0], before[0]]))
        factors.append(tuple(map(float, fitted)))
    return Plan(tuple(factors), variances)


def mean_variances(walked: Sequence[Walked]) -> tuple[float, ...]:
    """What is learned of the variance at each step, on average; empty where nothing is."""
    learned = [one.variance for one in walked if one.variance is not None]
    if not learned:
        return ()
    means = [variance.mean(axis=(1, 2, 3, 4), dtype=np.float64) for variance in learned]
    return tuple(map(float, np.mean(means, axis=0)))
