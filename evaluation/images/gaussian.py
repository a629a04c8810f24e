"""The Gaussian of features, fitted part by part, and the Fréchet distance between two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.floating]
"""[image, feature]."""


@dataclass(frozen=True)
class Gaussian:
    """Of features, as far as they were seen.

    Attributes:
        count: Images.
        mean: float64 [feature].
        scatter: float64 [feature, feature], the sum of the products of deviations from the mean.
    """

    count: int
    mean: npt.NDArray[np.float64]
    scatter: npt.NDArray[np.float64]

    @property
    def covariance(self) -> npt.NDArray[np.float64]:
        """Of a sample: over one image less than there are, as `numpy.cov`."""
        return self.scatter / (self.count - 1)

    def merged(self, other: Gaussian) -> Gaussian:
        """Of both (Chan, Golub and LeVeque, 1979): exact, and without cancellation."""
        count = self.count + other.count
        apart = other.mean - self.mean
        return Gaussian(
            count,
            self.mean + apart * (other.count / count),
            self.scatter
            + other.scatter
            + np.outer(apart, apart) * (self.count * other.count / count),
        )


def fit(features: Features) -> Gaussian:
    """Of features that are in memory."""
    wide = features.astype(np.float64)
    mean = wide.mean(axis=0)
    apart = wide - mean
    return Gaussian(len(wide), mean, apart.T @ apart)


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """The squared distance between two Gaussians (Dowson and Landau, 1982; Heusel et al., 2017).

    ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))``. The trace of the root is that of
    ``(S C2 S)^(1/2)`` with S the symmetric root of C1: the eigenvalues are the same, and those of
    a symmetric matrix, so they are real and can be found where a covariance is singular.
    """
    means = first.mean - second.mean
    c1, c2 = first.covariance, second.covariance
    values, vectors = np.linalg.eigh(c1)
    root = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
    roots = np.sqrt(np.clip(np.linalg.eigvalsh(root @ c2 @ root), 0.0, None))
    return max(0.0, float(means @ means + np.trace(c1) + np.trace(c2) - 2 * roots.sum()))
