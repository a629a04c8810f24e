"""What the fitted forecasts of the bundles keep with fewer calls, for the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...runtime.bundle.folder import Bundle
from ...runtime.bundle.forecasts import usable_or_why_not
from ...runtime.sampling.forecast.fitted import Forecast
from .plots import STYLE, WIDTH, add_legend, as_svg, colours, literal


@dataclass(frozen=True)
class Point:
    """What one number of calls keeps on held-out images.

    Attributes:
        calls: Of the run.
        psnr_db: PSNR in dB against all calls, of the median image.
        psnr_db_low: At the 5th percentile.
    """

    calls: int
    psnr_db: float
    psnr_db_low: float


@dataclass(frozen=True)
class Fitted:
    """A forecast's points, those of the fewest calls first.

    Attributes:
        name: Of the bundle and the forecast in it.
        steps: Of the run.
        points: One for each number of calls.
    """

    name: str
    steps: int
    points: tuple[Point, ...]


def forecasts_of(bundles: Sequence[Bundle]) -> tuple[list[Fitted], list[str]]:
    """Every forecast of some bundles, each bundle once; and why others cannot be used."""
    each = {bundle.folder: bundle for bundle in bundles}
    fitted, why_not = [], []
    for folder, bundle in each.items():
        before = f"{folder.name}, " if len(each) > 1 else ""
        for forecast in usable_or_why_not(bundle):
            if isinstance(forecast, tuple):
                why_not.append(f"forecast {before}{forecast[0]}: {forecast[1]}")
            else:
                fitted.append(_fitted(forecast, f"{before}{forecast.name}"))
    return fitted, why_not


def _fitted(forecast: Forecast, name: str) -> Fitted:
    points = (Point(one.plan.calls, one.held_out_db, one.held_out_low_db) for one in forecast.plans)
    return Fitted(name, forecast.steps, tuple(sorted(points, key=lambda point: point.calls)))


def plot_forecasts(forecasts: Sequence[Fitted]) -> str:
    """PSNR over the number of calls, a line for each forecast."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
        axes = figure.subplots()
        for colour, one in zip(colours(len(forecasts)), forecasts, strict=True):
            calls = [point.calls for point in one.points]
            middle = [point.psnr_db for point in one.points]
            low = [point.psnr_db_low for point in one.points]
            axes.plot(calls, middle, "o-", ms=4, lw=1.8, color=colour, label=literal(one.name))
            axes.plot(calls, low, "_", ms=9, color=colour)
            axes.fill_between(calls, low, middle, color=colour, alpha=0.15, lw=0)
        axes.set_title("PSNR to all calls in dB, higher is better")
        axes.set_xlabel("denoiser calls of an image")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        add_legend(figure, [one.name for one in forecasts])
        return as_svg(figure)
