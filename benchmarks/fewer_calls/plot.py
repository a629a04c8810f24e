"""The study as one picture: quality over the time of an image, a line for each method."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
from fewer_calls.cells import EXACT_DB, Cell, Figures
from fewer_calls.methods import CACHES, FORECAST
from matplotlib.figure import Figure

from pitstop.evaluation.report.plots import COLOURS, FLOOR_DASHES, GREY, STYLE


def plot_calls(done: Mapping[Cell, Figures], times: Mapping[str, float], path: Path) -> None:
    """Draw PSNR over milliseconds of an image; over calls where no time is known.

    Args:
        done: Figures of each cell.
        times: Milliseconds of an image, by a cell's name.
        path: A PNG or SVG.
    """
    lines: dict[str, list[tuple[float, float, int]]] = {}
    for cell, figures in done.items():
        across = times.get(cell.name) if times else figures.calls
        if (
            across is not None and figures.psnr_db < EXACT_DB
        ):  # not the images that all are held against
            label = cell.method if cell.precision == "fp32" else f"{cell.method}, {cell.precision}"
            lines.setdefault(label, []).append((across, figures.psnr_db, figures.calls))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 5.0), layout="constrained")
        axes = figure.subplots()
        colours, dashes = iter(COLOURS * len(lines)), iter(FLOOR_DASHES * len(lines))
        for label, points in lines.items():
            ours = label.startswith(FORECAST)
            cached = label in CACHES
            colour = GREY if cached else next(colours)
            points.sort()
            axes.plot(
                [point[0] for point in points],
                [point[1] for point in points],
                marker="o",
                markersize=3,
                linewidth=2.5 if ours else 1.2,
                color=colour,
                linestyle=next(dashes) if cached else "-",
                label=label,
            )
            for across, decibels, calls in points if ours else ():
                axes.annotate(str(calls), (across, decibels), (4, 4), textcoords="offset points")
        axes.set_xlabel("milliseconds of an image" if times else "denoiser calls of an image")
        axes.set_ylabel("PSNR of the median image to all 50 calls, in dB")
        axes.legend()
    figure.savefig(path, dpi=120)
