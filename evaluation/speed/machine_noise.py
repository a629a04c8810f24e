"""Whether a machine was quiet enough for its times to mean something."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .spread import Spread

STAT = Path("/proc/stat")
MAX_OTHERS = 0.05  # of the CPUs' time, taken by other processes
MAX_STOLEN = 0.01  # of the CPUs' time, taken by other machines on the same host
MAX_LOAD = 0.5  # runnable processes for a CPU before the run, where the system counts no more
MAX_SPREAD = 1.3  # p90 / p10 of one contender's calls


@dataclass(frozen=True)
class CpuClock:
    """How the CPUs' time was spent so far, in seconds.

    Attributes:
        wall: Of the clock on the wall.
        own: By this process and those that it waited for.
        busy: By all processes; None where the system does not count it.
        stolen: That the host gave to other machines; None too.
    """

    wall: float
    own: float
    busy: float | None
    stolen: float | None


@dataclass(frozen=True)
class Disturbance:
    """What else went on while something was measured, each a share of all CPUs' time.

    Attributes:
        others: Taken by other processes; None where the system does not count it.
        stolen: Taken by other machines of the same host; None too.
        load: Runnable processes for a CPU in the minute before; None where it is not known.
    """

    others: float | None
    stolen: float | None
    load: float | None


def read_cpu_clock(stat: Path = STAT) -> CpuClock:
    """Ask the system how the CPUs' time was spent since it started."""
    times = os.times()
    own = times.user + times.system + times.children_user + times.children_system
    fields = stat.read_text().partition("\n")[0].split() if stat.is_file() else []
    if fields[:1] != ["cpu"] or len(fields) < 9 or not any(map(int, fields[1:])):
        return CpuClock(time.monotonic(), own, None, None)
    ticks = os.sysconf("SC_CLK_TCK")
    user, nice, system, _idle, _iowait, irq, softirq, stolen = (
        int(field) / ticks for field in fields[1:9]
    )
    return CpuClock(time.monotonic(), own, user + nice + system + irq + softirq, stolen)


def load_per_cpu() -> float | None:
    """Runnable processes for each CPU, over the last minute."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except OSError:  # the system does not tell
        return None


def disturbance(before: CpuClock, after: CpuClock, *, cpus: int, load: float | None) -> Disturbance:
    """What others took of ``cpus`` CPUs between two readings."""
    if before.busy is None or after.busy is None or before.stolen is None or after.stolen is None:
        return Disturbance(None, None, load)
    there = (after.wall - before.wall) * cpus
    others = (after.busy - before.busy) - (after.own - before.own)
    return Disturbance(max(0.0, others / there), (after.stolen - before.stolen) / there, load)


def warnings(seen: Disturbance, calls: Mapping[str, Spread]) -> list[str]:
    """A sentence for everything that speaks against the figures; none on a quiet machine."""
    told = []
    if seen.others is not None and seen.others > MAX_OTHERS:
        told.append(
            f"other processes took {seen.others:.0%} of the CPUs' time, more than {MAX_OTHERS:.0%}"
        )
    if seen.stolen is not None and seen.stolen > MAX_STOLEN:
        told.append(
            f"the host gave {seen.stolen:.0%} of the CPUs' time to other machines, more than "
            f"{MAX_STOLEN:.0%}"
        )
    if seen.others is None and seen.load is not None and seen.load > MAX_LOAD:
        told.append(
            f"the load before the run was {seen.load:.1f} processes for a CPU, more than {MAX_LOAD}"
        )
    uneven = {name: series.ratio for name, series in calls.items() if series.ratio > MAX_SPREAD}
    if uneven:
        worst = max(uneven, key=lambda name: uneven[name])
        told.append(
            f"the calls of {len(uneven)} of {len(calls)} rows are uneven: p90 is "
            f"{uneven[worst]:.2f} times p10 for {worst}, more than {MAX_SPREAD}"
        )
    return told
