from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pitstop import BundleError
from pitstop.calibration.pipeline import calibrate_bundle
from pitstop.calibration.recipe import Recipe
from pitstop.evaluation.accuracy.measure import Asked, measure
from pitstop.evaluation.report.calibration import read_calibration
from pitstop.evaluation.report.page import render
from pitstop.runtime.bundle.folder import open_bundle, write_manifest


@pytest.fixture(scope="module")
def calibrated(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(exported, tmp_path_factory.mktemp("int8") / "bundle"))
    calibrate_bundle(folder, Recipe(num=2, steps=4, budget_db=200.0))
    return folder


def test_a_bundle_tells_how_it_was_calibrated(calibrated: Path) -> None:
    coverage = json.loads((calibrated / "calibration" / "coverage.json").read_text())

    calibration = read_calibration(open_bundle(calibrated))

    assert calibration is not None
    assert calibration.rows == coverage["rows"]
    assert set(calibration.drift) == set(coverage["drift"])
    assert calibration.saturation_max == max(coverage["saturation"].values())
    assert calibration.budget_db == 200.0
    kept, psnr = zip(*calibration.points, strict=True)
    assert list(kept) == sorted(set(kept))
    assert list(psnr) == sorted(set(psnr))


def test_a_bundle_without_a_calibration_tells_nothing(exported: Path) -> None:
    assert read_calibration(open_bundle(exported)) is None


def test_the_report_shows_drift_clipping_and_the_budgets_points(calibrated: Path) -> None:
    page = render(measure(Asked([calibrated], precisions=["int8"])))

    calibration = read_calibration(open_bundle(calibrated))
    assert calibration is not None
    assert "Calibration of int8" in page
    assert all(site in page for site in calibration.drift)
    assert "The budget of 200.0 dB" in page
    assert f"of {calibration.sites}</th>" in page


def test_a_graph_whose_numbers_overflowed_is_not_among_the_budgets_points(
    calibrated: Path, tmp_path: Path
) -> None:
    """JSON has null in the place of its PSNR."""
    bundle = Path(shutil.copytree(calibrated, tmp_path / "bundle"))
    path = bundle / "calibration" / "budget.json"
    budget = json.loads(path.read_text())
    budget["points"] = [
        {"kept": [], "psnr_db": None},
        {"kept": ["a"], "psnr_db": 30.0},
        {"kept": ["a", "b"], "psnr_db": 30.0},
        {"kept": ["a", "b", "c"], "psnr_db": 41.5},
    ]
    path.write_text(json.dumps(budget))
    manifest = open_bundle(calibrated).manifest
    (bundle / "manifest.json").unlink()
    write_manifest(bundle, manifest)

    calibration = read_calibration(open_bundle(bundle))

    assert calibration is not None
    assert calibration.points == ((1, 30.0), (3, 41.5))


@pytest.mark.parametrize("text", ["{", "[]", '{"rows": 3}', "null", 100_000 * "["])
def test_figures_that_cannot_be_read_are_told_in_one_line(
    calibrated: Path, tmp_path: Path, text: str
) -> None:
    bundle = Path(shutil.copytree(calibrated, tmp_path / "bundle"))
    (bundle / "calibration" / "coverage.json").write_text(text)
    (bundle / "manifest.json").unlink()
    write_manifest(bundle, open_bundle(calibrated).manifest)

    with pytest.raises(BundleError, match="holds no calibration's figures"):
        read_calibration(open_bundle(bundle))
