"""The search on made-up sites, whose errors and PSNRs are known."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from bundle_helpers import one_line
from hypothesis import given
from hypothesis import strategies as st
from stage_helpers import Heard

from pitstop import BundleError
from pitstop.calibration.qdq.placement import Site
from pitstop.calibration.search.budget import Log, Point, Search, open_log, search
from pitstop.runtime.stage import OnStage, unheard

PSNR = [31.0, 35.0, 39.0, 42.0, 44.0, 47.0, 50.0, 52.0]  # with so many of the worst sites kept
SITES = [Site(f"layer.{index}", f"x{index}", f"y{index}") for index in range(len(PSNR))]


class Counted:
    """A model whose errors rise with the site's number, and how often it was measured."""

    def __init__(self, psnr: Sequence[float] = PSNR, stops_at: int | None = None) -> None:
        self.psnr = psnr
        self.stops_at = stops_at
        self.asked: list[tuple[str, ...]] = []

    def error_of(self, chosen: Sequence[Site]) -> float:
        self.asked.append(tuple(site.name for site in chosen))
        return 0.01 * int(chosen[0].name.removeprefix("layer."))

    def psnr_of(self, chosen: Sequence[Site]) -> float:
        if len(SITES) - len(chosen) == self.stops_at:
            raise KeyboardInterrupt
        self.asked.append(tuple(site.name for site in chosen))
        return self.psnr[len(SITES) - len(chosen)]

    def search(self, budget_db: float, log: Log, on_stage: OnStage = unheard) -> Search:
        return search(
            SITES,
            budget_db,
            error_of=self.error_of,
            psnr_of=self.psnr_of,
            log=log,
            on_stage=on_stage,
        )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bundle.budget.jsonl"


def worst(count: int) -> tuple[str, ...]:
    return tuple(f"layer.{7 - index}" for index in range(count))


def test_the_fewest_sites_that_meet_the_budget_are_kept_the_worst_first(path: Path) -> None:
    found = Counted().search(43.0, open_log(path, "a"))

    assert found.passed
    assert found.chosen == Point(worst(4), 44.0)
    assert list(found.errors) == list(worst(8))
    assert found.errors["layer.7"] == pytest.approx(0.07)


def test_where_all_sites_meet_the_budget_nothing_is_kept_and_one_graph_is_tried(
    path: Path,
) -> None:
    found = Counted().search(31.0, open_log(path, "a"))

    assert found.chosen == Point((), 31.0)
    assert len(found.points) == 1


def test_a_budget_that_cannot_be_met_keeps_the_best_graph(path: Path) -> None:
    found = Counted([31.0, 36.0, 33.0, 30.0, 35.0, 30.0, 30.0, 34.0]).search(
        60.0, open_log(path, "a")
    )

    assert not found.passed
    assert found.chosen == Point(worst(1), 36.0)


def test_a_graph_whose_numbers_overflow_is_never_the_best(path: Path) -> None:
    found = Counted([-math.inf] * 7 + [12.0]).search(60.0, open_log(path, "a"))

    assert found.chosen.psnr_db == 12.0
    assert [point.psnr_db for point in found.pareto] == [12.0]


@given(
    psnr=st.lists(st.floats(10, 60), min_size=8, max_size=8).map(sorted),
    budget=st.floats(5, 65),
)
def test_the_fewest_are_found_in_few_tries_for_any_rising_psnr(
    psnr: list[float], budget: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    counted = Counted(psnr)
    log = Log(tmp_path_factory.getbasetemp() / "any.jsonl", {})

    found = counted.search(budget, log)

    enough = [kept for kept, reached in enumerate(psnr) if reached >= budget]
    assert found.passed == bool(enough)
    if enough:
        assert found.chosen == Point(worst(enough[0]), psnr[enough[0]])
    else:
        assert found.chosen.psnr_db == psnr[-1]
    assert len(counted.asked) - len(SITES) <= 7


def test_one_site_alone_is_never_kept(path: Path) -> None:
    found = search(
        SITES[:1],
        40.0,
        error_of=lambda chosen: 0.1,
        psnr_of=lambda chosen: 30.0,
        log=open_log(path, "a"),
    )

    assert found.chosen == Point((), 30.0)


def test_the_pareto_points_are_those_that_no_other_beats() -> None:
    points = [Point(worst(kept), db) for kept, db in enumerate([31.0, 30.0, 34.0, 34.0, 41.0])]

    found = Search(60.0, {}, tuple(points))

    assert [(len(point.kept), point.psnr_db) for point in found.pareto] == [
        (0, 31.0),
        (2, 34.0),
        (4, 41.0),
    ]


def test_the_sites_are_told_one_by_one(path: Path) -> None:
    heard = Heard()

    Counted().search(43.0, open_log(path, "a"), heard)

    assert heard.stages == ["measuring each site alone"]
    assert heard.moved == heard.all_steps == [8]


def test_a_search_that_was_stopped_goes_on_where_it_was(path: Path) -> None:
    whole = Counted().search(43.0, open_log(path, "a"))
    path.unlink()
    stopped = Counted(stops_at=2)

    with pytest.raises(KeyboardInterrupt):
        stopped.search(43.0, open_log(path, "a"))
    resumed = Counted()

    found = resumed.search(43.0, open_log(path, "a"))

    assert found == whole
    assert len(stopped.asked) == 10
    assert [len(chosen) for chosen in resumed.asked] == [6, 4, 5]


def test_a_search_that_ended_is_not_measured_again_not_for_another_budget_either(
    path: Path,
) -> None:
    Counted().search(43.0, open_log(path, "a"))
    again = Counted()

    found = again.search(41.0, open_log(path, "a"))

    assert found.chosen == Point(worst(3), 42.0)
    assert again.asked == []


def test_another_search_takes_nothing_over(path: Path) -> None:
    Counted().search(43.0, open_log(path, "a"))
    other = Counted()

    other.search(43.0, open_log(path, "b"))

    assert len(other.asked) == 8 + 5
    assert json.loads(path.read_text().splitlines()[0]) == {"search": "b"}


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_after_a_cut_off_line_only_that_one_is_measured_again(path: Path, cut: int) -> None:
    whole = Counted().search(43.0, open_log(path, "a"))
    path.write_bytes(path.read_bytes()[:-cut])
    lines = path.read_text().count("\n")
    once, twice = Counted(), Counted()

    assert once.search(43.0, open_log(path, "a")) == whole
    assert twice.search(43.0, open_log(path, "a")) == whole

    assert len(once.asked) == (0 if cut == 1 else 1)
    assert twice.asked == []
    assert path.read_text().count("\n") == lines + 1


@pytest.mark.parametrize("content", ["", "\n", "3\n", "[1]\n", '{"search"', "no log\n", "\0\0"])
def test_a_file_that_is_no_log_is_begun_anew(path: Path, content: str) -> None:
    path.write_text(content)
    counted = Counted()

    counted.search(43.0, open_log(path, "a"))

    assert len(counted.asked) == 8 + 5
    assert len(path.read_text().splitlines()) == 1 + 8 + 5


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "3",
        "[" * 100_000,
        '{"what": "kept", "which": [0], "value": 40.0}',
        '{"what": "kept", "which": true, "value": 40.0}',
        '{"what": 3, "which": 0, "value": 40.0}',
        '{"what": "kept", "which": 0, "value": "x"}',
        '{"what": "kept", "which": 0, "value": NaN}',
    ],
)
def test_from_a_line_on_that_is_no_measurement_all_are_measured_again(
    path: Path, line: str
) -> None:
    whole = Counted().search(43.0, open_log(path, "a"))
    head, first, second, *others = path.read_text().splitlines(keepends=True)
    path.write_text("".join([head, first, f"{line}\n", second, *others]))
    again = Counted()

    assert again.search(43.0, open_log(path, "a")) == whole

    assert len(again.asked) == 8 + 5 - 1
    assert line not in path.read_text().splitlines()


def test_numbers_that_are_not_finite_survive_the_log(path: Path) -> None:
    open_log(path, "a").measured("kept", 3, lambda: math.inf)
    open_log(path, "a").measured("kept", 4, lambda: -math.inf)

    log = open_log(path, "a")

    assert log.measured("kept", 3, lambda: 0.0) == math.inf
    assert log.measured("kept", 4, lambda: 0.0) == -math.inf


def test_a_log_that_cannot_be_written_is_told_in_one_line(path: Path) -> None:
    path.mkdir()

    with pytest.raises(BundleError) as caught:
        open_log(path, "a")

    assert one_line(caught.value).startswith(f"{path} cannot be written (Is a directory)")
