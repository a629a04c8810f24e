from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundle_helpers import one_line
from hypothesis import given
from hypothesis import strategies as st

from pitstop import CalibrationError
from pitstop.calibration.observed.ranges import (
    LARGEST,
    REMEDY,
    ActivationRange,
    Ranges,
    read_ranges,
)

HASH = "ab" * 32
POSITIVE = st.floats(min_value=0, max_value=LARGEST)


def some_ranges(**fields: Any) -> Ranges:
    ranges = Ranges(
        HASH,
        "mse",
        {"x": ActivationRange(1.5, 2.25, 640), "silent": ActivationRange(0.0, 0.0, 64)},
        {"x": (0.5, 1.0, 2.0)},
    )
    return dataclasses.replace(ranges, **fields)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "ranges.json").write_text(some_ranges().to_json())
    return tmp_path / "ranges.json"


def refused(path: Path, graph_sha256: str = HASH) -> str:
    """The problem that reading a file is refused with."""
    with pytest.raises(CalibrationError) as caught:
        read_ranges(path, graph_sha256)
    one_line(caught.value)
    assert caught.value.remedy == REMEDY
    return caught.value.problem.removeprefix(f"{path} ")


@given(threshold=POSITIVE, amax=POSITIVE, factor=st.floats(1e-3, 1e3))
def test_what_is_written_is_what_is_read(
    threshold: float, amax: float, factor: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    written = some_ranges(
        by_tensor={"x": ActivationRange(threshold, amax, 3)}, smoothing={"x": (factor,)}
    )
    path = tmp_path_factory.getbasetemp() / "ranges.json"
    path.write_text(written.to_json())

    read = read_ranges(path, HASH)

    assert read == written
    assert read.sha256 == written.sha256


def test_the_order_of_the_tensors_changes_no_byte() -> None:
    ranges = some_ranges()
    turned = some_ranges(by_tensor=dict(reversed(ranges.by_tensor.items())))

    assert turned.to_json() == ranges.to_json()


def test_ranges_of_another_graph_are_refused_with_both_hashes(path: Path) -> None:
    assert refused(path, "cd" * 32) == (
        "was taken from a graph with sha256 abababababab…, this bundle's fp32 denoiser has "
        "cdcdcdcdcdcd…"
    )


@pytest.mark.parametrize("number", [math.nan, math.inf, -1.0, 1e300])
@pytest.mark.parametrize("field", ["threshold", "amax"])
def test_a_number_that_no_range_has_is_told_with_its_tensor(
    path: Path, field: str, number: float
) -> None:
    spoilt = dataclasses.replace(ActivationRange(1.0, 1.0, 1), **{field: number})
    path.write_text(some_ranges(by_tensor={"blocks.0": spoilt}).to_json())

    assert refused(path) == f"has the {field} {number} for blocks.0"


@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan, math.inf])
def test_a_smoothing_factor_that_cannot_be_is_told_with_its_tensor(
    path: Path, factor: float
) -> None:
    path.write_text(some_ranges(smoothing={"h": (1.0, factor)}).to_json())

    assert refused(path) == "has a smoothing factor for h that is not a positive number"


def empty(path: Path) -> None:
    path.write_text("")


def cut(path: Path) -> None:
    path.write_text(path.read_text()[:-40])


def put_bytes(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\0")


def put_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def put_depth(path: Path) -> None:
    path.write_text("[" * 100_000)


def put(**fields: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    change.__name__ = str(fields)
    return change


def put_text(text: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(text)

    change.__name__ = text
    return change


@pytest.mark.parametrize(
    "breaks",
    [
        empty,
        cut,
        put_bytes,
        put_folder,
        put_depth,
        Path.unlink,
        put_text("3"),
        put_text("[]"),
        put_text("{}"),
        put(format="pitstop ranges 0"),
        put(by_tensor=None),
        put(by_tensor={"x": 3}),
        put(by_tensor={"x": {"threshold": 1.0, "samples": 1}}),
        put(by_tensor={"x": {"threshold": "much", "amax": 1.0, "samples": 1}}),
        put(by_tensor={"x": {"threshold": 1.0, "amax": 1.0, "samples": math.inf}}),
        put(smoothing={"x": 3}),
    ],
    ids=lambda breaks: breaks.__name__,
)
def test_a_file_that_holds_no_ranges_is_told_in_one_line(
    path: Path, breaks: Callable[[Path], None]
) -> None:
    breaks(path)

    assert refused(path).startswith("holds no ranges (")
