"""The report's plots, as SVG to be set into the page."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...runtime.sampling.forecast.fitted import FittedPlan

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito
GREY = "#8a8f98"  # of axes and floors: seen on white and on black
INK, LINE, BAD, PAPER = "#1d2129", "#e1e4e8", "#c0262d", "#fefefe"
THEMED = {  # what the page draws in another colour when it is dark
    INK: "var(--ink)",
    LINE: "var(--line)",
    BAD: "var(--bad)",
    PAPER: "var(--paper)",
    COLOURS[0]: "var(--blue)",
}
FLOOR_DASHES = (":", "--", "-.")
NAMESPACE = re.compile(r' xmlns(:\w+)?="[^"]*"')
WIDTH = 10.6  # inches, of 100 pixels
LEGEND_CHARACTERS = 150  # side by side in that width
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "pitstop",  # the same plot gives the same file
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "axes.labelcolor": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": LINE,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Curve:
    """One denoiser's way beside PyTorch's.

    Attributes:
        name: For the legend.
        relative_l2: After each step.
        psnr_db: After each step, of the median image.
        floor: Whether it is one of PyTorch's own.
    """

    name: str
    relative_l2: Sequence[float]
    psnr_db: Sequence[float]
    floor: bool = False


@dataclass(frozen=True)
class BlockSeries:
    """The errors of a denoiser's blocks, by name, and which of them are bad.

    Attributes:
        name: For the legend.
        errors: Relative L2 of what leaves each block.
        bad: The blocks above the limit.
        limit: What rounding explains.
        place: Of the denoiser among the curves, whose colour it has.
    """

    name: str
    errors: Mapping[str, float]
    bad: Sequence[str]
    limit: float
    place: int = 0


@dataclass(frozen=True)
class Fitted:
    """A forecast's plans, those of the fewest calls first.

    Attributes:
        name: Of the bundle and the forecast in it.
        steps: Of the run.
        plans: One for each number of calls.
    """

    name: str
    steps: int
    plans: tuple[FittedPlan, ...]


def plot_curves(curves: Sequence[Curve]) -> str:
    """Relative L2 and PSNR after each step, side by side, with one legend."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
        left, right = figure.subplots(1, 2)
        for curve, style in zip(curves, _styles(curves), strict=True):
            steps = range(1, len(curve.relative_l2) + 1)
            left.plot(steps, _drawable(curve.relative_l2), label=_literal(curve.name), **style)
            right.plot(steps, _drawable(curve.psnr_db), **style)
        _logarithmic(left, [error for curve in curves for error in curve.relative_l2])
        left.set_title("relative L2 of the latents, lower is better")
        right.set_title("PSNR of the median image in dB, higher is better")
        for axes in (left, right):
            axes.set_xlabel("step")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(figure, [curve.name for curve in curves])
        return _svg(figure)


def plot_blocks(series: Sequence[BlockSeries]) -> str:
    """The error of every block on a logarithmic axis; the bad ones named, the limits dashed."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
        axes = figure.subplots()
        names = list(series[0].errors)
        for one in series:
            colour = COLOURS[one.place % len(COLOURS)]
            places = [names.index(name) for name in one.errors if name in names]
            errors = [one.errors[names[place]] for place in places]
            axes.plot(
                places, _drawable(errors), "o-", ms=4, lw=1, color=colour, label=_literal(one.name)
            )
            axes.axhline(one.limit, color=colour, lw=1, ls=(0, (4, 4)))
            for name in one.bad:
                _name_bad(axes, names.index(name), one.errors[name], name)
        _logarithmic(axes, [error for one in series for error in (*one.errors.values(), one.limit)])
        axes.set_title("relative L2 of what leaves each block, fed what the reference's was")
        axes.set_xticks(
            range(len(names)),
            list(map(_literal, names)),
            rotation=60 if len(names) < 32 else 90,
            ha="right",
        )
        axes.margins(x=0.02, y=0.12)
        _legend(figure, [one.name for one in series])
        return _svg(figure)


def plot_forecasts(forecasts: Sequence[Fitted]) -> str:
    """PSNR over the number of calls, a line for each forecast."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
        axes = figure.subplots()
        for colour, one in zip(_cycle(len(forecasts)), forecasts, strict=True):
            calls = [fitted.plan.calls for fitted in one.plans]
            middle = [fitted.held_out_db for fitted in one.plans]
            low = [fitted.held_out_low_db for fitted in one.plans]
            axes.plot(calls, middle, "o-", ms=4, lw=1.8, color=colour, label=_literal(one.name))
            axes.plot(calls, low, "_", ms=9, color=colour)
            axes.fill_between(calls, low, middle, color=colour, alpha=0.15, lw=0)
        axes.set_title("PSNR to all calls in dB, higher is better")
        axes.set_xlabel("denoiser calls of an image")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(figure, [one.name for one in forecasts])
        return _svg(figure)


def plot_drift(drift: Mapping[str, Sequence[float | None]]) -> str:
    """How each site's largest value moves over the timesteps: a row for a site, dark is large."""
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(WIDTH, 1.2 + 0.17 * len(drift)), layout="constrained")
        axes = figure.subplots()
        rows = [[math.nan if part is None else part for part in parts] for parts in drift.values()]
        drawn = axes.imshow(rows, aspect="auto", cmap="viridis_r", vmin=0, vmax=1)
        axes.set_yticks(range(len(rows)), list(map(_literal, drift)), fontsize=7)
        axes.set_xticks([])
        axes.set_xlabel("from the clean end of the timesteps to the noise, in equal parts")
        axes.set_title("largest value of each quantized activation, over its largest anywhere")
        figure.colorbar(drawn, ax=axes, pad=0.01)
        return _svg(figure)


def _literal(name: str) -> str:
    """A name in which a dollar is no mathematics."""
    return name.replace("$", r"\$")


def _name_bad(axes: Axes, place: int, error: float, name: str) -> None:
    if math.isfinite(error):
        axes.plot([place], [error], "o", ms=11, mfc="none", mec=BAD, mew=1.6)
        axes.annotate(
            _literal(name), (place, error), (0, 9), textcoords="offset points",
            ha="center", color=BAD, fontweight="bold",
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1},
        )  # fmt: skip


def _legend(figure: Figure, names: Sequence[str]) -> None:
    """Below the plots, in as many columns as the longest name leaves room for."""
    fitting = LEGEND_CHARACTERS // (max(map(len, names)) + 8)
    figure.legend(loc="outside lower center", ncols=max(1, min(fitting, len(names))))


def _styles(curves: Sequence[Curve]) -> list[dict[str, object]]:
    colours, dashes = iter(_cycle(len(curves))), iter(FLOOR_DASHES * len(curves))
    return [
        {"color": GREY, "ls": next(dashes), "lw": 1.4}
        if curve.floor
        else {"color": next(colours), "lw": 1.8}
        for curve in curves
    ]


def _cycle(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]


def _drawable(values: Sequence[float]) -> list[float]:
    """Gaps where both sides are equal to the bit, or where there is no number."""
    return [value if math.isfinite(value) and value > 0 else math.nan for value in values]


def _logarithmic(axes: Axes, values: Sequence[float]) -> None:
    if any(math.isfinite(value) and value > 0 for value in values):
        axes.set_yscale("log")


def _svg(figure: Figure) -> str:
    """The drawing alone, in the page's colours: no XML around it, and no namespaces."""
    file = io.StringIO()
    figure.savefig(
        file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
    )
    text = file.getvalue()
    for colour, variable in THEMED.items():
        text = text.replace(colour, variable)
    return NAMESPACE.sub("", text[text.index("<svg") :])
