"""Precision and recall of a set of images (Kynkäänniemi et al., 2019), block by block.

A set's manifold is the balls around its features that reach to their k-th nearest neighbour.
Precision is the share of drawn images inside the reference's manifold, recall that of reference
images inside the drawn one's (their equations 1 to 3).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

K = 3  # the paper's
BLOCK = 2**24  # distances in memory at a time
SAME = 1e-12  # of the largest square: below it, two features differ by rounding alone
Array = npt.NDArray[np.float64]
Features = npt.NDArray[np.floating]


def precision_and_recall(drawn: Features, reference: Features, k: int = K) -> tuple[float, float]:
    """Of images [image, feature] beside others, more than ``k`` of each."""
    centre = reference.mean(axis=0, dtype=np.float64)  # close to 0, squares lose no digits
    a, b = (features.astype(np.float64) - centre for features in (drawn, reference))
    radii_a, radii_b = _radii(a, k), _radii(b, k)
    inside_b = np.zeros(len(a), bool)
    inside_a = np.zeros(len(b), bool)
    for rows, squares in _squared_distances(a, b):
        inside_b[rows] = (squares <= radii_b).any(axis=1)
        inside_a |= (squares <= radii_a[rows, None]).any(axis=0)
    return float(inside_b.mean()), float(inside_a.mean())


def _radii(features: Array, k: int) -> Array:
    """The squared distance to the k-th nearest of the others; nearest is each one itself."""
    radii = np.empty(len(features))
    for rows, squares in _squared_distances(features, features):
        radii[rows] = np.partition(squares, k, axis=1)[:, k]
    return radii


def _squared_distances(a: Array, b: Array) -> Iterator[tuple[slice, Array]]:
    norms_a, norms_b = (np.einsum("ij,ij->i", one, one) for one in (a, b))
    least = SAME * max(norms_a.max(), norms_b.max())
    size = max(1, BLOCK // len(b))
    for start in range(0, len(a), size):
        rows = slice(start, start + size)
        squares = a[rows] @ b.T
        squares *= -2
        squares += norms_a[rows, None]
        squares += norms_b
        squares[squares < least] = 0.0
        yield rows, squares
