"""How alike the predictions of all steps are: one matrix, from which every fit follows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .trajectories import Walked

Doubles = npt.NDArray[np.float64]
RIDGE = 1e-7  # of a prediction's own size: keeps factors small where calls say nearly the same


def gram(walked: Sequence[Walked]) -> Doubles:
    """float64 [step, step]: the mean product of what is said at two steps."""
    steps = len(walked[0].said)
    total, count = np.zeros((steps, steps)), 0
    for one in walked:
        rows = one.said.reshape(len(one.said), -1).astype(np.float64)
        total += rows @ rows.T
        count += rows.shape[1]
    return total / count


def least_squares(matrix: Doubles, wanted: Doubles, size: Doubles) -> Doubles:
    """Factors [..., term] of ``matrix`` [..., term, term] that come nearest to ``wanted``.

    Args:
        matrix: Products of the terms.
        wanted: [..., term], products of the terms with what is wanted.
        size: [...], of a prediction, for the ridge.
    """
    ridge = RIDGE * size[..., None, None] * np.eye(matrix.shape[-1])
    return np.asarray(np.linalg.solve(matrix + ridge, wanted[..., None])[..., 0], np.float64)
