from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitstop.calibration.observed.histogram import BINS, Histogram

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def count(*parts: object) -> Histogram:
    """The histogram of several arrays, one after the other."""
    arrays = (np.array(part, dtype=np.float32) for part in parts)
    return functools.reduce(Histogram.add, arrays, Histogram.empty())


def same(one: Histogram, other: Histogram) -> bool:
    return (
        one.counts.tolist() == other.counts.tolist()
        and one.exponent == other.exponent
        and one.amax == other.amax
    )


@given(
    values=st.lists(FLOATS, min_size=1, max_size=30),
    cuts=st.lists(st.integers(0, 30), max_size=4),
    shuffle=st.randoms(use_true_random=False),
)
def test_the_counts_are_the_same_in_whatever_order_and_parts(
    values: list[float], cuts: list[int], shuffle: object
) -> None:
    at_once = count(values)
    shuffle.shuffle(values)  # type: ignore[attr-defined]

    in_parts = count(*np.split(np.array(values, np.float32), sorted(cuts)))

    assert same(at_once, in_parts)
    assert at_once.samples == len(values)
    assert at_once.amax == np.abs(np.array(values, np.float32)).max()


@given(values=st.lists(FLOATS, min_size=1, max_size=30))
def test_every_value_is_within_half_a_bin_of_a_centre_that_counts_it(values: list[float]) -> None:
    counted = count(values)

    absolute = np.sort(np.abs(np.array(values, np.float32)).astype(np.float64))
    centres = np.repeat(counted.centres, counted.counts)

    assert np.all(np.abs(absolute - centres) <= 0.5 * 2.0**counted.exponent)


def test_a_histogram_that_grows_adds_up_pairs_of_bins() -> None:
    small = count([0.5, 1.5, 2.5, 3.5, BINS - 0.5])
    assert small.exponent == 0
    assert small.counts.nonzero()[0].tolist() == [0, 1, 2, 3, BINS - 1]

    grown = small.add(np.array([-4.0 * BINS + 1.0], np.float32))

    assert grown.exponent == 2
    assert grown.counts.nonzero()[0].tolist() == [0, BINS // 4 - 1, BINS - 1]
    assert grown.counts[[0, BINS // 4 - 1, BINS - 1]].tolist() == [4, 1, 1]
    assert grown.amax == 4.0 * BINS - 1.0


@pytest.mark.parametrize("power", [-140, -20, 0, 9, 127])
def test_a_value_on_the_border_of_two_ranges_has_a_bin(power: int) -> None:
    counted = count([2.0**power])

    assert counted.samples == 1
    assert counted.amax == 2.0**power


def test_zeros_are_counted_before_and_after_a_value() -> None:
    assert same(count([0.0, -0.0], [3.0]), count([3.0, 0.0], [0.0]))
    assert count([0.0, -0.0], [3.0]).counts[0] == 2


def test_half_precision_is_counted_as_what_it_is() -> None:
    values = np.array([1.0, 65504.0, 6e-8], np.float16)

    counted = Histogram.empty().add(values)

    assert same(counted, count(values.astype(np.float32)))


@pytest.mark.parametrize(
    ("threshold", "share"),
    [(0.0, 1.0), (0.25, 0.75), (1.0, 0.75), (1.5, 0.5), (3.0, 0.25), (4095.5, 0.0), (1e30, 0.0)],
)
def test_the_share_above_counts_the_bins_that_lie_wholly_above(
    threshold: float, share: float
) -> None:
    counted = count([0.5, 1.5, 2.5, BINS - 0.5])

    assert counted.share_above(threshold) == share


def test_of_nothing_and_of_zeros_no_share_is_above() -> None:
    assert Histogram.empty().share_above(0.0) == 0.0
    assert count([0.0, 0.0]).share_above(0.0) == 0.0
