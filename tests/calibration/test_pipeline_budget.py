"""Calibrations with a budget: met, not met, stopped midway and taken up again."""

from __future__ import annotations

import dataclasses
import json
import shutil
from contextlib import AbstractContextManager
from pathlib import Path

import onnx_ir as ir
import pytest
from calibration_helpers import INT8, ONE_THREAD, QUICK, SITES
from stage_helpers import Heard

from pitstop.calibration.pipeline import calibrate_bundle
from pitstop.calibration.recipe import CalibrationReport
from pitstop.calibration.search import budget_search as tuning
from pitstop.calibration.sets import unbundled
from pitstop.graphs.graph_file import opened
from pitstop.runtime.backend import SessionOptions
from pitstop.runtime.bundle.folder import open_bundle
from pitstop.runtime.session import Session
from pitstop.runtime.stage import Moved, OnStage, unheard

LOG = "bundle.budget.jsonl"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "SEEDS", range(2))
    monkeypatch.setattr(tuning, "ROWS", 2)


def search(
    folder: Path,
    budget_db: float | None,
    on_stage: OnStage = unheard,
    ranges_path: Path | None = None,
) -> CalibrationReport:
    recipe = dataclasses.replace(QUICK, base="fp32", budget_db=budget_db)
    return calibrate_bundle(
        folder, recipe, options=ONE_THREAD, on_stage=on_stage, ranges_path=ranges_path
    )


def test_what_int8_graphs_are_judged_by_is_exact(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact: list[bool] = []

    def told(model: ir.Model, options: SessionOptions) -> AbstractContextManager[Session]:
        if any(node.op_type == "QuantizeLinear" for node in model.graph):
            exact.append(options.exact_int8)
        return opened(model, options)

    monkeypatch.setattr(unbundled, "opened", told)
    report = search(bundle, 5.0)

    assert report.search is not None
    assert exact == [True] * (SITES + len(report.search.points) + 1)


def test_a_budget_that_everything_meets_keeps_nothing(bundle: Path) -> None:
    report = search(bundle, 5.0)

    assert report.passed
    assert report.kept == ()
    assert len(report.sites) == SITES


def test_the_worst_sites_are_kept_until_the_budget_is_met(bundle: Path) -> None:
    everything = search(bundle, 5.0)
    assert everything.search is not None
    reached = everything.search.chosen.psnr_db

    report = search(bundle, reached + 3.0)

    assert report.search is not None
    assert report.passed
    assert report.search.chosen.psnr_db >= reached + 3.0
    assert 0 < len(report.kept) < SITES
    assert report.kept == tuple(report.search.errors)[: len(report.kept)]
    assert not set(report.kept) & set(report.sites)
    manifest = open_bundle(bundle).manifest
    assert manifest.denoiser("int8").nodes["QuantizeLinear"] == SITES - len(report.kept)
    [made] = [one for one in manifest.passes if one.name == "int8"]
    assert made.skipped[report.kept[0]] == "kept in fp32 for the budget"
    written = json.loads((bundle / "calibration" / "budget.json").read_text())
    assert written["budget_db"] == reached + 3.0
    assert [len(point["kept"]) for point in written["points"]] == [
        len(point.kept) for point in report.search.points
    ]


def test_a_budget_that_cannot_be_met_leaves_the_best_graph_in_the_bundle(bundle: Path) -> None:
    report = search(bundle, 500.0)

    assert not report.passed
    assert report.search is not None
    assert report.search.chosen.psnr_db == max(point.psnr_db for point in report.search.points)
    assert open_bundle(bundle).manifest.precisions == ["fp32", "fp16", "int8"]
    assert not (bundle.parent / LOG).exists()


def test_a_calibration_without_a_budget_takes_the_last_ones_points_away(bundle: Path) -> None:
    search(bundle, 5.0)

    search(bundle, None)

    assert not (bundle / "calibration" / "budget.json").exists()


def test_a_search_that_was_stopped_goes_on_and_ends_where_it_would_have(
    bundle: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(tiny_bundle, tmp_path / "other"))
    at_once = search(other, 500.0)
    before = (bundle / "manifest.json").read_bytes()

    def stop(what: str, parts: int = 0, steps: int = 1) -> Moved:
        if what.startswith("trajectories with 2 of"):
            raise KeyboardInterrupt
        return lambda count: None

    with pytest.raises(KeyboardInterrupt):
        search(bundle, 500.0, stop)
    assert (bundle / "manifest.json").read_bytes() == before
    lines = (bundle.parent / LOG).read_text().splitlines()
    assert len(lines) == 1 + SITES + 2  # its name, and trajectories with 0 and 1 site kept
    search(bundle, None)  # without a budget: the log is not its own
    resumed = search(bundle, 500.0)

    assert resumed.search == at_once.search
    assert not (bundle.parent / LOG).exists()
    assert (bundle / INT8).read_bytes() == (other / INT8).read_bytes()


def test_ranges_that_are_given_serve_a_budget_too(bundle: Path, tmp_path: Path) -> None:
    drawn = search(bundle, 500.0)
    path = Path(shutil.copy(bundle / "calibration" / "ranges.json", tmp_path))
    heard = Heard()

    given = search(bundle, 500.0, heard, path)

    assert given.search == drawn.search
    assert "drawing 2 trajectories" not in heard.stages
    assert heard.all_steps[heard.stages.index("measuring each site alone")] == SITES
    tried = [stage for stage in heard.stages if stage.startswith("trajectories with")]
    assert given.search is not None
    assert len(tried) == len(given.search.points)
