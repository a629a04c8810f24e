"""Turns, spreads, and how noisy a machine was: all from numbers that are given."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pitstop.evaluation.speed.interleave import interleave
from pitstop.evaluation.speed.machine_noise import (
    CpuClock,
    Disturbance,
    disturbance,
    read_cpu_clock,
    warnings,
)
from pitstop.evaluation.speed.spread import Spread, spread

QUIET = Disturbance(others=0.01, stolen=0.0, load=3.0)
EVEN = {"a": Spread(1.0, 0.9, 1.1)}


def logged(log: list[str], name: str) -> Callable[[], int]:
    def measure() -> int:
        log.append(name)
        return len(log)

    return measure


def orders(seed: int, rounds: int = 6) -> list[str]:
    log: list[str] = []
    interleave({name: logged(log, name) for name in "abcd"}, rounds, warm_ups=0, seed=seed)
    return ["".join(log[start : start + 4]) for start in range(0, len(log), 4)]


def test_everyone_has_one_turn_in_every_round_in_an_order_of_its_own() -> None:
    drawn = orders(0)

    assert all(sorted(order) == list("abcd") for order in drawn)
    assert len(drawn) == 6
    assert len(set(drawn)) > 2


def test_a_seed_gives_the_same_orders_again() -> None:
    assert orders(5) == orders(5) != orders(6)


def test_warm_ups_are_taken_and_thrown_away() -> None:
    log: list[str] = []
    turns = []

    kept = interleave(
        {name: logged(log, name) for name in "ab"}, 3, warm_ups=2, on_turn=lambda: turns.append(1)
    )

    assert len(log) == len(turns) == 10
    assert sorted(kept["a"] + kept["b"]) == [5, 6, 7, 8, 9, 10]


def test_a_spread_is_the_tenths_and_the_middle() -> None:
    found = spread([11.0, 1.0, 6.0, 2.0, 3.0, 5.0, 4.0, 10.0, 8.0, 7.0, 9.0])

    assert found == Spread(median=6.0, p10=2.0, p90=10.0)
    assert found.ratio == 5.0


def test_what_others_took_is_what_all_took_but_we_did_not() -> None:
    before = CpuClock(wall=100.0, own=5.0, busy=50.0, stolen=1.0)
    after = CpuClock(wall=110.0, own=13.0, busy=62.0, stolen=1.5)

    found = disturbance(before, after, cpus=2, load=0.25)

    assert found == Disturbance(others=pytest.approx(0.2), stolen=pytest.approx(0.025), load=0.25)


def test_counts_that_lag_behind_our_own_are_nobodys() -> None:
    before, after = CpuClock(0.0, 0.0, 0.0, 0.0), CpuClock(10.0, 9.5, 9.4, 0.0)

    assert disturbance(before, after, cpus=2, load=None).others == 0.0


def test_the_systems_counts_are_read_in_seconds(tmp_path: Path) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    fields = [ticks * seconds for seconds in (1, 2, 4, 100, 200, 8, 16, 32, 0, 0)]
    (tmp_path / "stat").write_text(f"cpu  {' '.join(map(str, fields))}\ncpu0 1 2 3\n")

    found = read_cpu_clock(tmp_path / "stat")

    assert (found.busy, found.stolen) == (31.0, 32.0)
    assert found.own > 0


@pytest.mark.parametrize("text", [None, "", "intr 5\n", f"cpu {' '.join('0' * 10)}\n"])
def test_where_the_system_does_not_count_the_load_speaks(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "stat").write_text(text)
    clock = read_cpu_clock(tmp_path / "stat")

    found = disturbance(clock, clock, cpus=2, load=0.8)

    assert found == Disturbance(None, None, 0.8)
    [told] = warnings(found, EVEN)
    assert told == "the load before the run was 0.8 processes for a CPU, more than 0.5"


def test_a_quiet_machine_has_no_warning_and_its_own_load_is_none() -> None:
    assert warnings(QUIET, EVEN) == []


def test_other_processes_and_other_machines_are_told() -> None:
    told = warnings(Disturbance(others=0.31, stolen=0.02, load=0.0), EVEN)

    assert told == [
        "other processes took 31% of the CPUs' time, more than 5%",
        "the host gave 2% of the CPUs' time to other machines, more than 1%",
    ]


def test_uneven_calls_are_told_with_the_worst_row() -> None:
    series = {
        "steady": spread([10.0, 10.1, 10.2, 10.1, 10.0]),
        "shaken": spread([10.0, 10.0, 10.0, 15.0, 20.0]),
        "tossed": spread([10.0, 10.0, 30.0, 30.0, 30.0]),
    }

    [told] = warnings(QUIET, series)

    assert told == (
        "the calls of 2 of 3 rows are uneven: p90 is 3.00 times p10 for tossed, more than 1.3"
    )
