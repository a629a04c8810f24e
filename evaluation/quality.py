"""How good a set of images is: the class that a classifier sees, and the Fréchet distance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ..models.checkpoint import load_classifier
from ..models.presets import CLASSIFIER
from ..runtime.sampler import Latent

Features = npt.NDArray[np.float64]
PART = 500  # images judged at once


@dataclass(frozen=True)
class Judgement:
    """What a classifier sees in a set of images.

    Attributes:
        named: int64 [image], the class that it names.
        features: float64 [image, feature], what it names it by.
    """

    named: npt.NDArray[np.int64]
    features: Features

    def agreement(self, labels: Sequence[int]) -> float:
        """The share of images, in [0, 1], that are named as they were asked for."""
        return float(np.mean(self.named == np.asarray(labels)))


def judge(pixels: Latent) -> Judgement:
    """Let the shipped classifier look at images float32 [image, 1, 32, 32] in [-1, 1]."""
    model = load_classifier(CLASSIFIER)
    with torch.inference_mode():
        parts = torch.from_numpy(np.clip(pixels, -1.0, 1.0)).split(PART)
        features = torch.cat([model.features(part) for part in parts])
        named = model.head(features).argmax(dim=1)
    return Judgement(named.numpy(), features.double().numpy())


def frechet_distance(first: Features, second: Features) -> float:
    """The squared distance between two Gaussians fitted to features (Heusel et al., 2017, eq. 6).

    ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))``; the trace of the root is the sum of the roots
    of the eigenvalues, which are real and not negative.

    Args:
        first: [image, feature], more images than features.
        second: The same features of other images.
    """
    means = first.mean(axis=0) - second.mean(axis=0)
    c1, c2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    roots = np.sqrt(np.clip(np.linalg.eigvals(c1 @ c2).real, 0.0, None))
    return float(means @ means + np.trace(c1) + np.trace(c2) - 2 * roots.sum())
