from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pitstop.runtime.bundle.label import LabelSpec


def spread(num: int, classes: int) -> list[int]:
    return [int(told.arrays["label"]) for told in LabelSpec(classes).spread(num)]


@given(num=st.integers(1, 3000), classes=st.integers(1, 2000))
def test_classes_are_as_even_as_they_can_be(num: int, classes: int) -> None:
    counts = np.bincount(spread(num, classes), minlength=classes)

    assert counts.sum() == num
    assert len(counts) == classes
    assert counts.max() - counts.min() <= 1


def test_of_more_classes_than_trajectories_some_of_everywhere_are_drawn() -> None:
    assert spread(4, 1000) == [0, 250, 500, 750]
    assert spread(64, 1001)[-1] == 985


def test_what_is_untold_is_the_null_class() -> None:
    untold = LabelSpec(10, null=10).untold
    assert untold == LabelSpec(11).told(10)
    assert LabelSpec(10).untold is None


def test_a_class_is_told_as_a_number_of_64_bits() -> None:
    array = LabelSpec(10).told(7).arrays["label"]
    assert (array.dtype, array.shape) == (np.dtype("int64"), ())
