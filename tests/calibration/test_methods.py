from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from bundle_helpers import one_line
from hypothesis import given
from hypothesis import strategies as st

from pitstop import OptionError
from pitstop.calibration.methods import METHODS
from pitstop.calibration.methods import find_threshold as find_threshold_of
from pitstop.calibration.observed.histogram import BINS, Histogram
from pitstop.runtime.bundle.precision import INT8

find_threshold = partial(find_threshold_of, precision=INT8)

NAMES = sorted(METHODS)
WITHOUT_ENTROPY = sorted({*METHODS} - {"entropy"})  # whose search takes a third of a second


def count(values: object) -> Histogram:
    return Histogram.empty().add(np.array(values, np.float32))


def quantization_error(values: np.ndarray, threshold: float) -> float:
    """The mean squared error of int8 with that threshold."""
    scale = threshold / 127
    return float(np.mean((np.clip(np.round(values / scale), -127, 127) * scale - values) ** 2))


def normal(*, outlier: float, size: int = 20_000) -> np.ndarray:
    values = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    values[size // 3] = outlier
    return values


def test_minmax_is_the_largest_absolute_value() -> None:
    assert find_threshold("minmax", count([0.3, -7.25, 2.0])) == 7.25


def test_percentile_is_the_end_of_the_bin_that_holds_it() -> None:
    ten_thousand = np.full(10_000, 0.5)
    ten_thousand[:3] = [BINS - 0.5, 100.5, 70.5]

    assert find_threshold("percentile", count(ten_thousand)) == 101.0
    assert find_threshold("percentile", count(ten_thousand[:9_999])) == 4095.5


def test_entropy_keeps_a_flat_distribution_and_cuts_a_lone_outlier() -> None:
    flat = np.linspace(0, 4, 40_000, dtype=np.float32)

    assert find_threshold("entropy", count(flat)) == pytest.approx(4.0, rel=0.05)
    assert find_threshold("entropy", count(normal(outlier=40.0))) < 10.0


def test_mse_finds_the_best_threshold_of_a_fine_search() -> None:
    values = normal(outlier=12.0)
    fine = np.linspace(1.0, 12.0, 500)

    found = find_threshold("mse", count(values))

    best = min(quantization_error(values, threshold) for threshold in fine)
    assert quantization_error(values, found) <= 1.01 * best


def test_mse_beats_minmax_where_there_is_an_outlier() -> None:
    values = normal(outlier=20.0, size=1_000_000)
    counted = count(values)

    ours, plain = (
        quantization_error(values, find_threshold(name, counted)) for name in ("mse", "minmax")
    )

    assert ours < 0.3 * plain


def test_mse_keeps_everything_of_a_flat_distribution() -> None:
    flat = np.linspace(-3, 3, 10_000)

    assert find_threshold("mse", count(flat)) == pytest.approx(3.0, rel=0.01)


@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50),
    name=st.sampled_from(WITHOUT_ENTROPY),
)
def test_a_threshold_is_finite_and_no_more_than_the_largest_value(
    values: list[float], name: str
) -> None:
    counted = count(values)

    threshold = find_threshold(name, counted)

    assert isinstance(threshold, float)
    assert 0.0 <= threshold <= counted.amax
    assert (threshold > 0.0) == (counted.amax > 0.0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [-3.7, 1e-30, 6e4])
def test_one_value_alone_is_its_own_threshold(name: str, value: float) -> None:
    counted = count([value])

    assert find_threshold(name, counted) == pytest.approx(abs(value), rel=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_of_zeros_and_of_nothing_the_threshold_is_zero(name: str) -> None:
    assert find_threshold(name, count([0.0, 0.0])) == 0.0
    assert find_threshold(name, Histogram.empty()) == 0.0


def test_an_unknown_method_lists_those_that_there_are() -> None:
    with pytest.raises(OptionError) as caught:
        find_threshold("max", Histogram.empty())

    assert one_line(caught.value) == (
        "There is no method called 'max'. Choose one of: minmax, percentile, entropy, mse."
    )
