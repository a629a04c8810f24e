import math
from statistics import NormalDist

import numpy as np
import pytest

from pitstop.runtime.sampling.noise.inverse_normal import (
    IN_THE_MIDDLE,
    IN_THE_TAILS,
    MIDDLE,
    SMALLEST,
    Table,
    inverse_normal,
    logarithm,
)


def shares() -> Table:
    """Of 32-bit words: the outermost, those around where the ratio changes, and others."""
    outer = np.arange(500.0)
    seam = np.round((0.5 - MIDDLE) * 2**32) + np.arange(-100, 100)
    other = np.random.default_rng(0).integers(0, 2**32, 4000)
    scaled = np.floor(2.0 ** np.random.default_rng(1).uniform(0, 31, 4000))
    words = np.concatenate([outer, seam, other, scaled])
    return np.concatenate([words + 0.5, 2**32 - words - 0.5]) / 2**32


def test_the_share_below_a_value_is_the_one_that_was_asked_for() -> None:
    for share, value in zip(shares(), inverse_normal(shares()), strict=True):
        density = math.exp(-value * value / 2) / math.sqrt(2 * math.pi)
        off = (0.5 * math.erfc(-value / math.sqrt(2)) - share) / density
        assert abs(off) <= 2e-15 * max(1.0, abs(value))


def test_it_is_as_near_as_its_docstring_says() -> None:
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(40):
        for share, value in zip(shares()[::7], inverse_normal(shares()[::7]), strict=True):
            exact = mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(float(share)) - 1)
            assert abs(mpmath.mpf(float(value)) - exact) <= 2e-15 * abs(exact)


def test_the_logarithm_is_as_near_as_its_docstring_says() -> None:
    mpmath = pytest.importorskip("mpmath")
    numbers = 2.0 ** np.random.default_rng(2).uniform(-36, 8, 2000)
    with mpmath.workdps(40):
        for number, value in zip(numbers, logarithm(numbers), strict=True):
            exact = mpmath.log(mpmath.mpf(float(number)))
            assert abs(mpmath.mpf(float(value)) - exact) <= 3e-16 * max(1, abs(exact))


def test_the_logarithm_of_one_is_nought() -> None:
    assert logarithm(np.array([1.0, 2.0, 0.5])).tolist() == [0.0, math.log(2), -math.log(2)]


def test_the_coefficients_are_those_of_the_standard_library() -> None:
    wanted = [NormalDist().inv_cdf(float(share)) for share in shares()]
    np.testing.assert_allclose(inverse_normal(shares()), wanted, rtol=5e-15, atol=1e-16)
    assert [len(side) for side in (*IN_THE_MIDDLE, *IN_THE_TAILS)] == [8, 8, 8, 8]


def test_both_halves_are_alike_to_the_bit() -> None:
    below = shares()
    np.testing.assert_array_equal(inverse_normal(below), -inverse_normal(1 - below))


def test_the_outermost_word_is_inside_the_two_ratios() -> None:
    assert SMALLEST < 0.5 / 2**32
    assert inverse_normal(np.array([0.5 / 2**32]))[0] == pytest.approx(-6.338, abs=1e-3)
