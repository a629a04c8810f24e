from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest

from pitstop.runtime.bundle.precision import BF16, FLOATING, FP16, FP32, INT8, PRECISIONS, QUANTIZED


def test_they_stand_in_the_order_of_what_they_keep() -> None:
    """Which the gates tell."""
    for better, worse in itertools.pairwise(PRECISIONS.values()):
        assert better.min_psnr_db >= worse.min_psnr_db
        assert better.block_limit < worse.block_limit
        assert better.tolerance < worse.tolerance


def test_the_promised_figures_are_these() -> None:
    assert FP32.tolerance == FP32.max_relative_l2 == 1e-5
    assert [one.min_psnr_db for one in (FP16, BF16)] == [60.0, 48.0]
    assert [one.max_relative_l2 for one in (FP16, BF16, INT8)] == [None] * 3


def test_an_export_writes_what_is_not_quantized_and_a_calibration_the_rest() -> None:
    assert (*FLOATING, *QUANTIZED) == tuple(PRECISIONS)
    assert QUANTIZED == ("int8",)


@pytest.mark.parametrize("name", PRECISIONS)
def test_its_largest_number_is_one_of_its_type(name: str) -> None:
    precision = PRECISIONS[name]
    dtype = ir.DataType[precision.dtype].numpy()

    if np.isfinite(precision.largest):
        assert dtype.type(precision.largest) == precision.largest
    else:
        assert np.isfinite(dtype.type(np.float32(1e38)))


@pytest.mark.parametrize("name", QUANTIZED)
def test_a_base_has_the_smallest_of_its_scales(name: str) -> None:
    for base in PRECISIONS[name].bases:
        smallest = PRECISIONS[base].smallest_scale
        assert smallest is not None
        assert ir.DataType[PRECISIONS[base].dtype].numpy().type(smallest) == smallest


def test_int8_is_the_nearest_whole_number_that_has_its_negative() -> None:
    scaled = np.array([-300.0, -127.6, -0.5, 0.4, 1.5, 2.5, 126.6, 1e9], np.float32)

    found = INT8.nearest(scaled)

    assert found.tolist() == [-127, -127, 0, 0, 2, 2, 127, 127]
    assert found.dtype == np.float32
