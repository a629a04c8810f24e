from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

from pitstop.evaluation.accuracy.quality import Judgement, frechet_distance, judge
from pitstop.models.training.fashion_mnist import CLASSES


def draw(mean: list[float], spread: list[float], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, spread, size=(400, len(mean)))


def test_the_same_features_are_at_distance_0() -> None:
    features = draw([0, 1, 2], [1, 2, 3], 0)

    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-9)


def test_a_shift_counts_by_its_square() -> None:
    features = draw([0, 1, 2], [1, 2, 3], 0)

    assert frechet_distance(features, np.add(features, [3, 0, 4])) == pytest.approx(25, abs=1e-9)


def test_a_scale_counts_by_the_difference_of_the_standard_deviations() -> None:
    features = draw([0.0, 0.0], [1, 1], 0)
    features -= features.mean(axis=0)
    variance = float(np.trace(np.cov(features, rowvar=False)))

    assert frechet_distance(features, 3 * features) == pytest.approx(4 * variance, rel=1e-9)


def test_it_is_the_formula_with_the_matrix_root() -> None:
    first, second = draw([0, 1, 2], [1, 2, 3], 0), draw([1, 1, 0], [2, 1, 1], 1)
    second = second @ np.array([[1, 0.5, 0], [0, 1, 0.25], [0.1, 0, 1]])
    c1, c2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    shift = first.mean(axis=0) - second.mean(axis=0)
    expected = shift @ shift + np.trace(c1 + c2 - 2 * linalg.sqrtm(c1 @ c2).real)

    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)


def test_agreement_is_the_share_that_is_named_as_asked() -> None:
    judged = Judgement(np.array([0, 1, 2, 2]), np.zeros((4, 2)))

    assert judged.agreement([0, 1, 1, 2]) == 0.75


def test_the_shipped_classifier_names_a_class_from_128_features() -> None:
    judged = judge(np.random.default_rng(0).uniform(-1, 1, (3, 1, 32, 32)).astype(np.float32))

    assert judged.features.shape == (3, 128)
    assert set(judged.named.tolist()) <= set(range(len(CLASSES)))
