"""The bars of benchmarks/calls.py: met, not met, or not measured."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parent.parent.parent / "benchmarks")
    return importlib.import_module("fewer_calls.bars")


def figures(bars: Any, decibels: float, frechet: float | None = 0.1) -> Any:
    return bars.Figures(25, decibels, decibels - 9, 0.9, frechet, None)


def judged(bars: Any, done: dict[Any, Any]) -> dict[str, bool | None]:
    return {bar.promise: bar.met for bar in bars.judge_bars(done)}


def test_nothing_drawn_is_nothing_measured(bars: Any) -> None:
    assert set(judged(bars, {}).values()) == {None}


@pytest.mark.parametrize(("decibels", "met"), [(52.0, True), (51.9, False)])
def test_a_bar_is_met_at_its_number(bars: Any, decibels: float, met: bool) -> None:
    found = judged(bars, {bars.Cell(bars.FORECAST, 25): figures(bars, decibels)})
    assert found["25 calls, dB of the median image, at least 52"] is met


@pytest.mark.parametrize(
    ("theirs", "frechet", "met"),
    [
        (49.0, 0.2, True),
        (51.0, 0.2, False),
        (49.0, 0.05, False),
        (49.0, None, None),
        (51.0, None, False),
    ],
)
def test_ahead_is_in_both_measures_and_not_measured_where_one_is_missing(
    bars: Any, theirs: float, frechet: float | None, met: bool | None
) -> None:
    done = {
        bars.Cell(bars.FORECAST, 25): figures(bars, 50.0),
        bars.Cell("FORA", 25): figures(bars, theirs, frechet),
    }
    assert judged(bars, done)["25 calls, ahead of FORA"] is met


def test_int8_is_held_against_its_own_images_of_all_calls(bars: Any) -> None:
    done = {
        bars.Cell(bars.ALL, 50, "int8"): figures(bars, 45.0),
        bars.Cell(bars.FORECAST, 25, "int8"): figures(bars, 44.2),
    }
    assert judged(bars, done)["int8 with 25 calls, dB lost to int8 with all, at most 1"] is True


def test_another_guidance_is_judged_by_its_low_images_too(bars: Any) -> None:
    ours = bars.Figures(25, 56.0, 38.0, 0.9, None, None)
    done = {
        bars.Cell(bars.FORECAST, 25, cfg_scale=4.0): ours,
        bars.Cell(bars.TAYLOR, 25, cfg_scale=4.0): bars.Figures(25, 48.0, 46.0, 0.9, None, None),
    }
    found = judged(bars, done)
    name = "guidance 4, 25 calls, dB over Taylor's"
    assert found[f"{name}, at least 0"] is True
    assert found[f"{name} at the 5th percentile, at least 0"] is False


def test_every_bar_has_its_cells(bars: Any) -> None:
    cells = bars.cells_of_bars()
    found = judged(bars, {cell: figures(bars, 60.0) for cell in cells})
    assert None not in found.values()
    assert len(cells) == len(set(cells))
