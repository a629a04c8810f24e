"""Fréchet distance, Inception Score, precision and recall beside their formulas."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

from pitstop.evaluation.images import neighbours
from pitstop.evaluation.images.gaussian import Gaussian, fit, frechet_distance
from pitstop.evaluation.images.inception_score import InceptionScore
from pitstop.evaluation.images.neighbours import precision_and_recall


def features(count: int, width: int, seed: int, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(shift, 1, (count, width)) @ rng.normal(0, 1, (width, width))


def in_parts(array: np.ndarray, size: int) -> list[np.ndarray]:
    return np.split(array, range(size, len(array), size))


def fitted(array: np.ndarray, size: int) -> Gaussian:
    first, *others = map(fit, in_parts(array, size))
    for other in others:
        first = first.merged(other)
    return first


@pytest.mark.parametrize("size", [1, 7, 300])
def test_a_gaussian_of_parts_is_that_of_the_whole(size: int) -> None:
    whole = features(300, 8, 0, shift=1000.0)

    found = fitted(whole, size)

    np.testing.assert_allclose(found.mean, whole.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(whole, rowvar=False), rtol=1e-9)
    assert found.count == 300


@pytest.mark.parametrize("seed", range(3))
def test_the_distance_is_the_formula_with_scipys_matrix_root(seed: int) -> None:
    a, b = features(200, 16, seed), features(150, 16, seed + 10, shift=0.5)
    c1, c2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    means = a.mean(axis=0) - b.mean(axis=0)
    expected = means @ means + np.trace(c1 + c2 - 2 * linalg.sqrtm(c1 @ c2).real)

    assert frechet_distance(fitted(a, 64), fitted(b, 64)) == pytest.approx(expected, rel=1e-9)


def test_the_distance_of_a_set_to_itself_is_never_below_0() -> None:
    for seed in range(40):
        one = fit(features(12, 6, seed))
        assert 0 <= frechet_distance(one, one) < 1e-9


def test_the_distance_of_too_few_images_is_finite_and_0_to_themselves() -> None:
    few = features(5, 16, 0)

    assert frechet_distance(fit(few), fit(few)) == pytest.approx(0, abs=1e-5)
    assert np.isfinite(frechet_distance(fit(few), fit(features(6, 16, 1))))


def score_by_the_formula(logits: np.ndarray, split: int) -> float:
    """As ADM's evaluator has it: exp of the mean divergence, the mean over splits."""
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = exponents / exponents.sum(axis=1, keepdims=True)
    scores = []
    for start in range(0, len(p), split):
        part = p[start : start + split]
        divergence = part * (np.log(part) - np.log(part.mean(axis=0, keepdims=True)))
        scores.append(np.exp(divergence.sum(axis=1).mean()))
    return float(np.mean(scores))


@pytest.mark.parametrize("part", [1, 13, 64, 200])
@pytest.mark.parametrize("split", [50, 64, 1000])
def test_the_inception_score_is_the_formula_however_the_images_come(part: int, split: int) -> None:
    logits = np.random.default_rng(0).normal(0, 3, (200, 10)).astype(np.float32)
    score = InceptionScore(split)

    for one in in_parts(logits, part):
        score.add(one)

    assert score.value == pytest.approx(score_by_the_formula(logits.astype(float), split), rel=1e-9)


def test_the_inception_score_is_the_number_of_classes_where_each_is_certain_and_as_frequent() -> (
    None
):
    score = InceptionScore()
    score.add(1000.0 * np.eye(7)[np.arange(70) % 7])

    assert score.value == pytest.approx(7)
    assert InceptionScore().value is None


def by_brute_force(drawn: np.ndarray, reference: np.ndarray, k: int) -> tuple[float, float]:
    """Kynkäänniemi et al., equations 1 to 3, one image at a time."""

    def share_inside(points: np.ndarray, manifold: np.ndarray) -> float:
        inside = 0
        for point in points:
            for index, centre in enumerate(manifold):
                others = np.delete(manifold, index, axis=0)
                radius = np.sort(np.linalg.norm(others - centre, axis=1))[k - 1]
                if np.linalg.norm(point - centre) <= radius:
                    inside += 1
                    break
        return inside / len(points)

    return share_inside(drawn, reference), share_inside(reference, drawn)


@pytest.mark.parametrize("block", [1, 200, 2**24])
def test_precision_and_recall_are_the_formula_whatever_the_block(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(neighbours, "BLOCK", block)
    drawn, reference = features(40, 4, 0) / 2, features(30, 4, 0, shift=0.4)

    found = precision_and_recall(drawn.astype(np.float32), reference.astype(np.float32))

    assert found == by_brute_force(drawn, reference, 3)
    assert 0 < found[1] < found[0] < 1


def test_a_set_has_all_precision_and_recall_of_itself_and_none_of_one_far_away() -> None:
    drawn = features(30, 4, 0).astype(np.float32)
    twice = np.concatenate([drawn, drawn, drawn, drawn, drawn])

    assert precision_and_recall(drawn, drawn) == (1.0, 1.0)
    assert precision_and_recall(twice, twice) == (1.0, 1.0)
    assert precision_and_recall(drawn, drawn + 1000) == (0.0, 0.0)
