"""What the forecast is held to: each bar with its figure, and whether it is met."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fewer_calls.cells import STEPS, Cell, Figures
from fewer_calls.methods import ALL, BASELINES, CACHES, FORECAST, TAYLOR

MEDIAN_DB = {25: 52.0, 17: 46.0, 13: 42.0}
LOW_DB = {25: 43.0}  # at the 5th percentile
AGREEMENT = 0.005  # of all images, that may be named otherwise than with all calls
INT8_DB = 1.0  # that 25 calls may cost in int8
OTHER_SCALES = (1.5, 4.0)

Done = Mapping[Cell, Figures]


@dataclass(frozen=True)
class Bar:
    """Something that is promised.

    Attributes:
        promise: In words, with the number.
        found: What was found, in words.
        met: Whether it is kept; None where a figure that it needs is not there.
    """

    promise: str
    found: str
    met: bool | None

    def __str__(self) -> str:
        said = {True: "met", False: "NOT MET", None: "not measured"}[self.met]
        return f"{said:12} {self.promise}: {self.found}"


def cells_of_bars() -> list[Cell]:
    """All that the bars need."""
    cells = [Cell(ALL, STEPS)]
    for calls in MEDIAN_DB:
        cells += [Cell(method, calls) for method in (FORECAST, *BASELINES)]
        for scale in OTHER_SCALES:
            cells += [Cell(method, calls, cfg_scale=scale) for method in (FORECAST, TAYLOR)]
    return [*cells, Cell(ALL, STEPS, "int8"), Cell(FORECAST, 25, "int8")]


def judge_bars(done: Done) -> list[Bar]:
    """Every bar."""
    return [*_own(done), *_ahead(done), *_int8(done), *_other_scales(done)]


def _own(done: Done) -> Iterator[Bar]:
    for calls, least in MEDIAN_DB.items():
        found = done.get(Cell(FORECAST, calls))
        yield _at_least(f"{calls} calls, dB of the median image", found and found.psnr_db, least)
    for calls, least in LOW_DB.items():
        found = done.get(Cell(FORECAST, calls))
        name = f"{calls} calls, dB at the 5th percentile"
        yield _at_least(name, found and found.psnr_db_low, least)
    whole = done.get(Cell(ALL, STEPS))
    for calls in MEDIAN_DB:
        found = done.get(Cell(FORECAST, calls))
        lost = whole.class_agreement - found.class_agreement if whole and found else None
        yield _at_most(f"{calls} calls, class agreement lost", lost, AGREEMENT)


def _ahead(done: Done) -> Iterator[Bar]:
    """Ahead of every baseline of as many calls, in both measures."""
    for calls in MEDIAN_DB:
        ours = done.get(Cell(FORECAST, calls))
        for method in BASELINES:
            theirs = done.get(Cell(method, calls))
            name = f"{calls} calls, ahead of {method}"
            if not ours or not theirs:
                yield Bar(name, "", None)
                continue
            more = f" with {theirs.calls}" if method in CACHES else ""
            found = f"{ours.psnr_db:.1f} over {theirs.psnr_db:.1f} dB{more}"
            ahead = ours.psnr_db > theirs.psnr_db
            if ours.frechet is None or theirs.frechet is None:
                yield Bar(name, f"{found}, no Fréchet distance", None if ahead else False)
                continue
            found += f", Fréchet {ours.frechet:.4f} under {theirs.frechet:.4f}"
            yield Bar(name, found, ahead and ours.frechet < theirs.frechet)


def _int8(done: Done) -> Iterator[Bar]:
    whole, found = done.get(Cell(ALL, STEPS, "int8")), done.get(Cell(FORECAST, 25, "int8"))
    lost = whole.psnr_db - found.psnr_db if whole and found else None
    yield _at_most("int8 with 25 calls, dB lost to int8 with all", lost, INT8_DB)


def _other_scales(done: Done) -> Iterator[Bar]:
    """Where it was not fitted, no worse than what needs no fit."""
    for scale in OTHER_SCALES:
        for calls in MEDIAN_DB:
            ours, theirs = (
                done.get(Cell(method, calls, cfg_scale=scale)) for method in (FORECAST, TAYLOR)
            )
            gained = ours.psnr_db - theirs.psnr_db if ours and theirs else None
            low = ours.psnr_db_low - theirs.psnr_db_low if ours and theirs else None
            name = f"guidance {scale:g}, {calls} calls, dB over Taylor's"
            yield _at_least(name, gained, 0.0)
            yield _at_least(f"{name} at the 5th percentile", low, 0.0)


def _at_least(name: str, found: float | None, least: float) -> Bar:
    met = None if found is None else found >= least
    return Bar(f"{name}, at least {least:g}", _said(found), met)


def _at_most(name: str, found: float | None, most: float) -> Bar:
    # Shares of images are counts: half of one of them is no difference.
    met = None if found is None else found <= most + 1e-9
    return Bar(f"{name}, at most {most:g}", _said(found), met)


def _said(found: float | None) -> str:
    return "" if found is None else f"{found:.4g}"
