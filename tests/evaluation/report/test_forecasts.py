"""The report shows what each fitted forecast of a bundle keeps with fewer calls."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from cli_helpers import run

from pitstop.evaluation.accuracy.measure import Asked, measure
from pitstop.evaluation.report.forecasts import forecasts_of
from pitstop.evaluation.report.page import render
from pitstop.runtime.bundle.folder import open_bundle
from pitstop.runtime.bundle.forecasts import read_forecasts


@pytest.fixture(scope="module")
def forecast(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(exported, tmp_path_factory.mktemp("forecast") / "bundle"))
    for sampler in ("ddim", "unipc"):
        asked = ["--steps", "8", "--calls", "6", "--calls", "4", "--num", "4"]
        done = run(
            "forecast", str(folder), "--sampler", sampler, *asked, "--backend", "onnxruntime"
        )
        assert done.exit_code == 0, done.stderr
    return folder


def test_every_forecast_of_a_bundle_tells_its_points_once(forecast: Path) -> None:
    bundle = open_bundle(forecast)
    files = read_forecasts(bundle)

    found, why_not = forecasts_of([bundle, bundle])

    assert not why_not
    assert [one.name for one in found] == [file.name for file in files]
    for one, file in zip(found, files, strict=True):
        wanted = {plan.plan.calls: (plan.held_out_db, plan.held_out_low_db) for plan in file.plans}
        assert [fitted.plan.calls for fitted in one.plans] == [4, 6]
        assert {
            fitted.plan.calls: (fitted.held_out_db, fitted.held_out_low_db) for fitted in one.plans
        } == wanted


def test_the_report_draws_a_line_for_each_forecast(forecast: Path, exported: Path) -> None:
    page = render(measure(Asked([forecast], precisions=["fp32"])))

    section = page[page.index("<h2>Fewer calls</h2>") :]
    for file in read_forecasts(open_bundle(forecast)):
        assert f">{file.name}</text>" in section
        for one in file.plans:
            row = rf"<td>{re.escape(file.name)}</td><td>{one.plan.calls} of 8</td>"
            assert re.search(f"{row}<td>{one.held_out_db:.1f} dB</td>", section)
    assert "Fewer calls" not in render(measure(Asked([exported], precisions=["fp32"])))


def test_a_forecast_that_cannot_be_used_is_named_with_the_reason(
    forecast: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(forecast, tmp_path / "bundle"))
    path, _ = sorted((bundle / "forecasts").glob("*.json"))
    path.write_text("{}")

    found, why_not = forecasts_of([open_bundle(bundle)])
    page = render(measure(Asked([bundle], precisions=["fp32"])))

    assert len(found) == 1
    assert len(why_not) == 1
    assert "holds no forecast" in page[page.index("<h3>Not measured</h3>") :]
    assert path.stem in why_not[0]
