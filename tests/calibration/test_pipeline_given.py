"""Calibrations with a set or ranges from elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from bundle_helpers import one_line
from calibration_helpers import COVERAGE, INT8, RANGES, SET, SITES, calibrate, content

from pitstop.calibration import pipeline
from pitstop.calibration.placement import Placement
from pitstop.runtime.errors import CalibrationError, OptionError


@pytest.mark.parametrize("base", ["fp16", "fp32"])
def test_given_ranges_make_the_same_graph_without_a_trajectory(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str
) -> None:
    calibrate(bundle, smooth=True, base=base)
    before = content(bundle)
    monkeypatch.setattr(pipeline, "draw_set", None)

    report = calibrate(bundle, base=base, paths={"ranges_path": bundle / RANGES})

    after = content(bundle)
    assert (after[INT8], after[RANGES]) == (before[INT8], before[RANGES])
    assert not {SET, COVERAGE} & set(after)
    assert report.coverage is None


def test_a_given_set_makes_the_same_bytes(calibrated: Path, bundle: Path, tmp_path: Path) -> None:
    carried = Path(shutil.copy(calibrated / SET, tmp_path / "carried.npz"))

    calibrate(bundle, seed=5, paths={"set_path": carried})

    assert content(bundle) == content(calibrated)


def test_a_set_and_ranges_together_are_refused(calibrated: Path, bundle: Path) -> None:
    both = {"set_path": calibrated / SET, "ranges_path": calibrated / RANGES}

    with pytest.raises(OptionError) as caught:
        calibrate(bundle, paths=both)

    assert one_line(caught.value).startswith("Both a calibration set and ranges were given. ")


def test_ranges_without_the_attention_do_not_serve_for_it(calibrated: Path, bundle: Path) -> None:
    with pytest.raises(CalibrationError) as caught:
        calibrate(
            bundle,
            placement=Placement(attention=True),
            paths={"ranges_path": calibrated / RANGES},
        )

    assert one_line(caught.value).startswith("The ranges have none for matmul.q. Take them again")


def test_ranges_of_all_sites_serve_where_some_are_left_out(calibrated: Path, bundle: Path) -> None:
    report = calibrate(
        bundle, placement=Placement(bridge=False), paths={"ranges_path": calibrated / RANGES}
    )

    assert len(report.sites) == SITES - 2


def test_a_range_beyond_fp16_asks_for_the_other_base(
    calibrated: Path, bundle: Path, tmp_path: Path
) -> None:
    ranges = json.loads((calibrated / RANGES).read_text())
    next(iter(ranges["by_tensor"].values()))["amax"] = 70000.0
    path = tmp_path / "ranges.json"
    path.write_text(json.dumps(ranges))

    with pytest.raises(CalibrationError) as caught:
        calibrate(bundle, paths={"ranges_path": path})

    assert "reads values up to 70000, fp16 ends at 65504. Use `--base fp32`." in one_line(
        caught.value
    )
    assert calibrate(bundle, base="fp32", paths={"ranges_path": path}).base == "fp32"
