"""Which steps call the denoiser: the choice whose forecasts leave the least error in the image.

Between two calls a run is one sum of what was said, so its error is what the least squares leave
of the predictions there, each as large as it is left in the image. It depends on the last three
calls and the next alone. So the best choice of all whose calls are near enough is found by dynamic
programming, over the last three calls: each by how far it lies behind the one after it, 0 where
there is none. Calls are kept nearly even, since the mean error hides what wide gaps do: they are
better for most images, and far worse for the few that turn into others there.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .. import OptionError
from .gram import Doubles, least_squares

Places = npt.NDArray[np.int64]
TERMS = 3  # predictions that a forecast sums
FARTHEST = 32  # steps from one call to the next


def choose_called(products: Doubles, gains: Doubles, calls: int) -> tuple[tuple[int, ...], float]:
    """The best choice of so many steps, the first among them, none far from the next.

    Args:
        products: float64 [step, step], of `gram`.
        gains: float64 [step], of `measure_gains`.
        calls: From 3.

    Returns:
        The steps, and the mean squared error that is expected in the image.

    Raises:
        OptionError: The calls are too few for the steps.
    """
    steps = len(gains)
    reach = min(-(-steps // calls) + 1, FARTHEST)
    if reach * calls < steps:
        raise OptionError(
            f"{calls} calls in {steps} steps are more than {FARTHEST} steps apart",
            f"Choose at least {-(-steps // FARTHEST)} calls, or fewer steps",
        )
    costs = _costs(products, gains, reach)
    best = np.full((steps, reach + 1, reach + 1), np.inf)
    best[0, 0, 0] = 0.0
    came: list[Places] = []
    for _ in range(calls - 1):
        best, back = _another_call(best, costs, reach)
        came.append(back)
    for last in range(steps):
        apart = steps - last
        best[last] += costs[last, :, :, apart - 1] if apart <= reach else np.inf
    call, near, far = map(int, np.unravel_index(int(np.argmin(best)), best.shape))
    error = float(best[call, near, far])
    called = [call]
    for back in reversed(came):
        call, near, far = call - near, far, int(back[call, near, far])
        called.append(call)
    return tuple(reversed(called)), error


def expected_error(products: Doubles, gains: Doubles, called: tuple[int, ...]) -> float:
    """The mean squared error that is expected in the image, of steps that are called anyhow.

    Args:
        products: As for `choose_called`, as is the next.
        called: The steps, 0 first.
    """
    steps = len(gains)
    total = 0.0
    for call, end in zip(called, (*called[1:], steps), strict=True):
        past = [step for step in reversed(called) if step <= call][:TERMS]
        wanted = np.zeros(steps)
        wanted[call + 1 : end] = gains[call + 1 : end]
        matrix, right = products[np.ix_(past, past)], products[past] @ wanted
        wanted[past] -= least_squares(matrix, right, np.asarray(products[call, call]))
        total += float(wanted @ products @ wanted)
    return total


def _another_call(best: Doubles, costs: Doubles, reach: int) -> tuple[Doubles, Places]:
    """The least error with one call more, and how far back the call is that is forgotten for it."""
    after = np.full_like(best, np.inf)
    back = np.zeros(best.shape, dtype=np.int64)
    for apart in range(1, reach + 1):
        total = best[:-apart] + costs[:-apart, :, :, apart - 1]  # [call, near, far]
        after[apart:, apart, :] = total.min(axis=2)
        back[apart:, apart, :] = total.argmin(axis=2)
    return after, back


def _costs(products: Doubles, gains: Doubles, reach: int) -> Doubles:
    """float64 [call, near, far, next - call - 1]: the error of what is forecast up to the next."""
    steps = len(gains)
    weighed = np.zeros((steps + 1, steps))
    weighed[1:] = np.cumsum(gains[:, None] * products, axis=0)  # with what is said at each step
    whole = np.zeros((steps + 1, steps + 1))
    whole[:, 1:] = np.cumsum(weighed * gains, axis=1)
    costs = np.full((steps, reach + 1, reach + 1, reach), np.inf)
    for call in range(steps):
        past = _past(call, reach)
        ends = np.arange(call + 1, min(call + reach, steps) + 1)
        wanted = weighed[ends] - weighed[call + 1]  # [end, step]
        size = np.array([whole[e, e] - 2 * whole[e, call + 1] for e in ends])
        size += whole[call + 1, call + 1]
        left = _left(products, call, past, wanted, size)
        costs[call, past[:, 0], past[:, 1], : len(ends)] = left
    return costs


def _past(call: int, reach: int) -> Places:
    """[case, 2]: how far the two calls before may lie back, each behind the one after it."""
    if call == 0:
        return np.zeros((1, 2), dtype=np.int64)
    cases = [(call, 0)] if call <= reach else []  # step 0 always calls
    for near in range(1, min(reach, call - 1) + 1):
        cases += [(near, far) for far in range(1, min(reach, call - near) + 1)]
    return np.array(cases, dtype=np.int64).reshape(-1, 2)


def _left(
    products: Doubles,
    call: int,
    past: Places,
    wanted: Doubles,
    size: Doubles,
) -> Doubles:
    """float64 [case, end]: what the least squares leave."""
    terms = np.stack([np.full(len(past), call), call - past[:, 0], call - past.sum(axis=1)], axis=1)
    there = np.stack([np.ones(len(past)), past[:, 0] > 0, past[:, 1] > 0], axis=1)
    matrix = products[terms[:, :, None], terms[:, None, :]] * there[:, :, None] * there[:, None, :]
    matrix += np.eye(TERMS) * (1 - there)[:, None, :]
    right = wanted[:, terms].transpose(1, 0, 2) * there[:, None, :]  # [case, end, term]
    own = np.full(right.shape[:2], products[call, call])
    factors = least_squares(matrix[:, None], right, own)
    fitted = np.einsum("cei,cij,cej->ce", factors, matrix, factors)
    left: Doubles = np.maximum(size - 2 * (factors * right).sum(axis=2) + fitted, 0.0)
    return left
