from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import pytest
from bundle_helpers import one_line
from calibration_helpers import ONE_THREAD
from pass_helpers import Array, graph, noise

from pitstop import NonFiniteError
from pitstop.calibration.observed import observe as observing
from pitstop.calibration.observed.histogram import Histogram
from pitstop.calibration.observed.observe import Observation, observe
from pitstop.calibration.sets.feeds import Batch

ROWS = noise(5, 4, 3)  # row, token, channel
LAST = 2  # of the tensors' axes
BOTH = {"doubled": LAST, "turned": 1}


def model() -> ir.Model:
    """Twice the input, its channels moved, and two windows for each row."""
    return graph(
        "(float[2, 4, 3] x) => (float[2, 4, 3] y)",
        """doubled = Mul(x, two) turned = Transpose<perm = [0, 2, 1]>(doubled)
        windows = Reshape(doubled, shape) back = Reshape(windows, whole) y = Relu(back)""",
        two=2.0,
        shape=[4, 2, 3],
        whole=[2, 4, 3],
    )


def batches(rows: Array = ROWS) -> Iterator[Batch]:
    """Calls of two rows, the last one padded with something large."""
    padded = np.concatenate([rows, np.full((1, 4, 3), 1e6, np.float32)])
    for start in range(0, len(rows), 2):
        known = range(start, min(start + 2, len(rows)))
        yield Batch(known, {"x": padded[start : start + 2]})


def look(**channel_axes: int) -> dict[str, Observation]:
    return observe(model(), channel_axes, batches, ONE_THREAD)


def test_all_values_of_all_rows_are_counted_and_none_of_the_padding() -> None:
    seen = look(doubled=LAST)["doubled"]

    expected = Histogram.empty().add(2 * ROWS)
    assert seen.histogram.counts.tolist() == expected.counts.tolist()
    assert seen.histogram.amax == np.abs(2 * ROWS).max()
    assert seen.histogram.samples == ROWS.size


def test_the_largest_of_each_row_and_of_each_channel_are_kept() -> None:
    seen = look(**BOTH)
    absolute = np.abs(2 * ROWS)

    for one in seen.values():
        np.testing.assert_array_equal(one.amax_by_row, absolute.max(axis=(1, 2)))
        np.testing.assert_array_equal(one.amax_by_channel, absolute.max(axis=(0, 1)))


def test_a_tensor_with_several_windows_for_a_row_is_told_apart_by_row() -> None:
    seen = look(windows=-1)["windows"]

    np.testing.assert_array_equal(seen.amax_by_row, np.abs(2 * ROWS).max(axis=(1, 2)))
    assert seen.histogram.samples == ROWS.size


def test_tokens_of_all_rows_in_one_axis_are_told_apart_by_row() -> None:
    """As place_major has them: places of a window, then rows, then windows."""
    wide = graph(
        "(float[2, 4, 3] x) => (float[4, 2, 2, 2] y)",
        """cut = Reshape(x, apart) moved = Transpose<perm = [2, 0, 1, 3]>(cut)
        flat = Reshape(moved, rows) tokens = Neg(flat) scores = Reshape(seen, heads)
        y = Softmax<axis = -1>(scores)""",
        apart=[2, 2, 2, 3],
        rows=[8, 3],
        seen=noise(4, 2, 2, 2),
        heads=[4, 2, 2, 2],
    )

    seen = observe(wide, {"tokens": -1}, batches, ONE_THREAD)["tokens"]

    np.testing.assert_array_equal(seen.amax_by_row, np.abs(ROWS).max(axis=(1, 2)))
    np.testing.assert_array_equal(seen.amax_by_channel, np.abs(ROWS).max(axis=(0, 1)))
    assert seen.histogram.samples == ROWS.size


def test_tensors_that_do_not_fit_together_are_watched_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = 0

    def counted() -> Iterator[Batch]:
        nonlocal calls
        calls += 1
        return batches()

    monkeypatch.setattr(observing, "GROUP_BYTES", 4 * 2 * 4 * 3)
    seen = observe(model(), BOTH, counted, ONE_THREAD)

    assert calls == 2
    for name, one in look(**BOTH).items():
        assert one.histogram.counts.tolist() == seen[name].histogram.counts.tolist()


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_number_that_is_not_finite_names_the_tensor_and_the_row(number: float) -> None:
    rows = ROWS.copy()
    rows[3, 1, 1] = number

    with pytest.raises(NonFiniteError) as caught:
        observe(model(), BOTH, lambda: batches(rows), ONE_THREAD)

    assert one_line(caught.value).startswith(
        "doubled is not finite in row 3 of the calibration set. "
    )


def test_nothing_is_run_for_no_tensors() -> None:
    assert observe(model(), {}, batches, ONE_THREAD) == {}
