"""The fewest sites left unquantized that keep a PSNR: ranked by what each costs alone.

Each step is written to a log as it is taken, so a search that was stopped goes on where it was.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import BundleError
from ...runtime.stage import OnStage, unheard
from ...runtime.whole_file import whole_file

if TYPE_CHECKING:  # a report reads searches, also where no graph can be
    from ..qdq.placement import Site

Measure = Callable[["Sequence[Site]"], float]
"""From the sites that are quantized to a figure of the graph."""


@dataclass(frozen=True)
class Point:
    """A graph that was tried.

    Attributes:
        kept: The sites left in high precision, by name.
        psnr_db: The median over trajectories, against the fp32 graph.
    """

    kept: tuple[str, ...]
    psnr_db: float


@dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes:
        budget_db: The PSNR that was asked for.
        errors: The relative L2 of one call with a site alone quantized, the worst site first.
        points: All graphs that were tried, the one with the fewest kept sites first.
    """

    budget_db: float
    errors: dict[str, float]
    points: tuple[Point, ...]

    @property
    def chosen(self) -> Point:
        """The point with the fewest kept sites that meets the budget, or else the best."""
        enough = [point for point in self.points if point.psnr_db >= self.budget_db]
        return enough[0] if enough else max(self.points, key=lambda point: point.psnr_db)

    @property
    def passed(self) -> bool:
        return self.chosen.psnr_db >= self.budget_db

    @property
    def pareto(self) -> tuple[Point, ...]:
        """The points that no other beats with as few kept sites."""
        best, points = -float("inf"), []
        for point in self.points:
            if point.psnr_db > best:
                points.append(point)
                best = point.psnr_db
        return tuple(points)


def search(
    sites: Sequence[Site],
    budget_db: float,
    *,
    error_of: Measure,
    psnr_of: Measure,
    log: Log,
    on_stage: OnStage = unheard,
) -> Search:
    """Keep ever more of the worst sites until the budget is met, then as few of them as needed.

    Args:
        sites: All of them; at least one stays quantized.
        budget_db: The PSNR to reach.
        error_of: The relative L2 of single calls.
        psnr_of: The median PSNR of trajectories.
        log: Remembers both.
        on_stage: Told of the sites that are measured.
    """
    errors = {}
    moved = on_stage("measuring each site alone", len(sites))
    for site in sites:
        errors[site.name] = log.measured("site", site.name, partial(error_of, [site]))
        moved(1)
    worst_first = sorted(sites, key=lambda site: -errors[site.name])
    points: dict[int, Point] = {}

    def meets(kept: int) -> bool:
        if kept not in points:
            psnr = log.measured("kept", kept, lambda: psnr_of(worst_first[kept:]))
            points[kept] = Point(tuple(site.name for site in worst_first[:kept]), psnr)
        return points[kept].psnr_db >= budget_db

    _fewest(meets, len(sites) - 1)
    return Search(
        budget_db,
        {site.name: errors[site.name] for site in worst_first},
        tuple(points[kept] for kept in sorted(points)),
    )


def _fewest(meets: Callable[[int], bool], most: int) -> None:
    """Try 0, 1, 2, 4, ... until one meets, then halve the gap before it."""
    missed, met = -1, 0
    while not meets(met):
        if met == most:
            return
        missed, met = met, min(most, max(1, 2 * met))
    while met - missed > 1:
        middle = (missed + met) // 2
        if meets(middle):
            met = middle
        else:
            missed = middle


class Log:
    """Measurements on disk, a JSON object a line: a search that was stopped finds them again."""

    def __init__(self, path: Path, known: dict[tuple[str, Any], float]) -> None:
        self._path = path
        self._known = known

    def measured(self, what: str, which: str | int, measure: Callable[[], float]) -> float:
        """The value in the log, or else a new one, which is written at once."""
        if (what, which) not in self._known:
            value = measure()
            self._known[what, which] = value
            with _told(self._path), self._path.open("a") as file:
                file.write(_as_line({"what": what, "which": which, "value": value}))
        return self._known[what, which]


def open_log(path: Path, key: str) -> Log:
    """Open the log of the search called ``key``, without what another search left there.

    Raises:
        BundleError: It cannot be written.
    """
    with _told(path):
        head, *lines = _read_lines(path) or [{}]
        lines = list(itertools.takewhile(_is_measurement, lines))
        if head != {"search": key}:
            head, lines = {"search": key}, []
        with whole_file(path) as beside:
            beside.write_text("".join(map(_as_line, [head, *lines])))  # a cut-off line is gone
    return Log(path, {(line["what"], line["which"]): line["value"] for line in lines})


def _read_lines(path: Path) -> list[Any]:
    """The whole lines of a log; the last one may have been cut off."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            lines.append(json.loads(line))
        except (ValueError, RecursionError):
            break
    return lines


def _is_measurement(line: Any) -> bool:
    """Whether a line is as `Log` writes them; an infinite PSNR is a measurement too."""
    return (
        isinstance(line, dict)
        and isinstance(line.get("what"), str)
        and type(line.get("which")) in {str, int}
        and isinstance(line.get("value"), float)
        and not math.isnan(line["value"])
    )


def _as_line(content: Mapping[str, Any]) -> str:
    return json.dumps(content) + "\n"


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BundleError(
            f"{path} cannot be written ({error.strerror or error})",
            "Copy the bundle to a folder that can be written to",
        ) from error
