"""A benchmark as one picture: a bar for each row, with the spread of its calls."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from ... import OptionError
from ...runtime.whole_file import whole_file
from ..report.plots import COLOURS, GREY, STYLE
from .bench import Bench, Row

SUFFIXES = (".png", ".svg", ".pdf")
WIDTH = 9.0  # inches
ROW_HEIGHT = 0.34  # inches


def check_suffix(path: Path) -> None:
    """Refuse a file that cannot be drawn to, before the work.

    Raises:
        OptionError: Its name does not tell what it shall be.
    """
    if path.suffix not in SUFFIXES:
        raise OptionError(
            f"{path} has no suffix of a picture that can be drawn",
            f"End the name with one of: {', '.join(SUFFIXES)}",
        )


def plot_bench(bench: Bench, path: Path) -> None:
    """Draw the rows to ``path``, whole or not at all.

    Raises:
        OptionError: The file cannot be written.
    """
    with matplotlib.rc_context(STYLE):
        figure = _draw(bench)
    try:
        with whole_file(path) as beside:
            figure.savefig(beside, dpi=120, format=path.suffix.removeprefix("."))
    except OSError as error:
        raise OptionError(
            f"{path} cannot be written ({error.strerror or error})",
            "Choose another file with `--plot`",
        ) from error


def _draw(bench: Bench) -> Figure:
    """The first row at the top: PyTorch's in grey, each backend in a colour of its own."""
    rows = bench.rows
    figure = Figure(figsize=(WIDTH, 1.3 + ROW_HEIGHT * len(rows)), layout="constrained")
    axes = figure.subplots()
    places = range(len(rows))
    medians = [row.call.median for row in rows]
    whiskers = [
        [row.call.median - row.call.p10 for row in rows],
        [row.call.p90 - row.call.median for row in rows],
    ]
    axes.barh(places, medians, xerr=whiskers, color=_colours(rows), ecolor="#3a3d42", capsize=2)
    for place, row in zip(places, rows, strict=True):
        axes.annotate(
            _label(bench, row), (row.call.p90, place), (5, 0), textcoords="offset points",
            va="center",
        )  # fmt: skip
    axes.set_yticks(places, [row.name for row in rows])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.22, y=0.02)
    axes.set_xlim(left=0)
    axes.set_title(
        "milliseconds of a denoiser call: median, and from p10 to p90, of "
        f"{bench.rounds} turns of {bench.steps} steps"
    )
    if bench.warnings:
        axes.set_xlabel("The machine was noisy: see the warnings beside the table.")
    return figure


def _label(bench: Bench, row: Row) -> str:
    share = bench.peak_share(row)
    return f"{row.call.median:.3g}" + ("" if share is None else f"  ({share:.0%} of matmul peak)")


def _colours(rows: tuple[Row, ...]) -> list[str]:
    backends = list(
        dict.fromkeys(row.contender.backend for row in rows if not row.contender.is_torch)
    )
    return [
        GREY
        if row.contender.is_torch
        else COLOURS[backends.index(row.contender.backend) % len(COLOURS)]
        for row in rows
    ]
