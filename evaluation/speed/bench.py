"""How fast bundles are on each backend, beside PyTorch and the machine's own matmul peak.

Everything is opened first. Then all take turns, and at the end each has a process of its own for
its load time and memory.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ... import CheckpointError, OptionError, PitstopError
from ...runtime.backend import SessionOptions
from ...runtime.bundle.folder import Bundle, open_bundle
from ...runtime.figures import counted
from ...runtime.sampling.guidance.scales import scales_of
from ...runtime.sampling.samplers import sampler_for
from ...runtime.sampling.settings import Settings
from ...runtime.stage import OnStage, unheard
from ...runtime.temporary import temporary_folder
from .contender import Contender
from .contenders import Wanted, find_contenders, name_contenders
from .interleave import WARM_UPS, interleave
from .machine_noise import Disturbance, disturbance, load_per_cpu, read_cpu_clock, warnings
from .matmul.chain import chain_of
from .matmul.peak import Chains, open_chains, peak_flops, time_chain
from .memory import Fresh, measure_fresh
from .open_contender import open_contender
from .spread import Spread, spread
from .timed_run import Ready, TimedRun, forecast_note, host_note, time_run

MIN_STEPS = 2  # the first is not counted


@dataclass(frozen=True)
class Row:
    """One contender's figures; times in milliseconds.

    Attributes:
        name: What it is, for people, and unlike the other rows'.
        contender: What was timed.
        device: What ran it.
        batch: Rows of one denoiser call.
        images: How many are drawn together.
        flops_per_call: Of the model, a multiply-add counted as two.
        call: Of one denoiser call.
        step: Of one step: calls, guidance and sampler.
        image: Of one image: conditioner and loop, without the decoder.
        conditioner_ms: Of a group's conditioner; None where there is none, or inside the calls.
        loop_ms: Of a group's loop.
        decoder_ms: Of a group's decoder; None where there is none.
        loop_overhead: Share of a step, in [0, 1], outside the denoiser's session; None where a
            device's loop does not come back in between, and a call is a step.
        fresh: Load time and memory in a process of its own; None where it failed.
    """

    name: str
    contender: Contender
    device: str
    batch: int
    images: int
    flops_per_call: int
    call: Spread
    step: Spread
    image: Spread
    conditioner_ms: float | None
    loop_ms: float
    decoder_ms: float | None
    loop_overhead: float | None
    fresh: Fresh | None = None

    @property
    def images_per_second(self) -> float:
        return 1000 / self.image.median

    @property
    def flops_per_second(self) -> float:
        return 1000 * self.flops_per_call / self.call.median


@dataclass(frozen=True)
class Bench:
    """What was timed.

    Attributes:
        rows: PyTorch's first, then the graphs as they were asked for.
        steps: Of a trajectory.
        rounds: Turns of each row.
        matmul_flops: FLOP/s of each chain of matmuls, the fastest first; empty where none ran.
        warnings: What speaks against the figures: a sentence each.
        left_out: What was not measured, and why: a sentence each.
        notes: What is to be said of how rows were drawn: a sentence each.
    """

    rows: tuple[Row, ...]
    steps: int
    rounds: int
    matmul_flops: Mapping[str, float]
    warnings: tuple[str, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def peak_share(self, row: Row) -> float | None:
        """The row's FLOP/s over those of the fastest matmuls; None where none ran."""
        best = max(self.matmul_flops.values(), default=None)
        return None if best is None else row.flops_per_second / best

    def speedup(self, row: Row) -> float | None:
        """How many of its steps fit into one of the same bundle's fastest PyTorch.

        Where no step is like the other, as some are forecast or not guided: of its images.
        """
        others = [
            other
            for other in self.rows
            if other.contender.is_torch and other.contender.folder == row.contender.folder
        ]
        if not others:
            return None
        if row.contender.calls is not None or row.contender.cfg_interval is not None:
            return min(other.image.median for other in others) / row.image.median
        return min(other.step.median for other in others) / row.step.median


def run_bench(
    folders: Sequence[Path],
    wanted: Wanted,
    *,
    steps: int,
    rounds: int,
    on_stage: OnStage = unheard,
) -> Bench:
    """Time everything that is wanted, in turns.

    Args:
        folders: The bundles.
        wanted: What runs them.
        steps: Of a trajectory, at least 2.
        rounds: Turns of each row, at least 1.
        on_stage: Told how far it is.

    Raises:
        PitstopError: Something that was asked for is not to be had here.
    """
    if steps < MIN_STEPS or rounds < 1:
        raise OptionError(
            f"{rounds} rounds of {steps} steps leave nothing to count: the first step never counts",
            f"Choose at least 1 round of {MIN_STEPS} steps",
        )
    Settings(steps, calls=wanted.calls)  # refuses calls that the steps do not have
    bundles = {folder: open_bundle(folder) for folder in folders}
    for bundle in bundles.values():
        if wanted.cfg_interval is not None:
            _check_interval(bundle, wanted.cfg_interval, steps)
    contenders, left_out = find_contenders(wanted, bundles)
    named = name_contenders(contenders)
    opened, refused = _open_all(named, wanted, bundles, steps, on_stage)
    with temporary_folder() as folder:
        chains, unknown = _open_chains(list(bundles.values()), wanted.options, folder)
        taken = _take_turns(opened, chains, steps, rounds, on_stage)
    rows = [make_row(name, named[name], ready, taken.turns[name]) for name, ready in opened.items()]
    notes = dict.fromkeys(note for row in opened.items() for note in notes_of(*row, steps))
    for ready in opened.values():
        ready.close()
    rows, failed = _measure_memory(rows, steps, on_stage)
    return Bench(
        rows=tuple(rows),
        steps=steps,
        rounds=rounds,
        matmul_flops=taken.matmul_flops,
        warnings=tuple(warnings(taken.seen, {row.name: row.call for row in rows})),
        left_out=(*left_out, *refused, *unknown, *failed),
        notes=tuple(notes),
    )


def _check_interval(bundle: Bundle, cfg_interval: str, steps: int) -> None:
    """Refuse a guidance interval of a bundle that is not guided, or that no step of it is in."""
    manifest = bundle.manifest
    if not manifest.guidable:
        raise OptionError(
            f"The model of {bundle.folder} was trained without label dropout, so there is no "
            f"guidance to have in the interval {cfg_interval}",
            "Leave out `--cfg-interval`, or that bundle",
        )
    settings = Settings(steps, cfg_interval=cfg_interval)
    scales_of(settings, sampler_for(manifest, settings).schedule, manifest.schedule)


def notes_of(name: str, opened: Ready, steps: int) -> list[str]:
    """What is to be said of how a row is drawn."""
    host, forecast = host_note(opened, steps), forecast_note(opened, steps)
    by_host = f"{name} is drawn by the host's loop, not on the device: {host}" if host else ""
    return [note for note in (by_host, forecast) if note]


def make_row(name: str, contender: Contender, opened: Ready, turns: Sequence[TimedRun]) -> Row:
    """A row from the turns of its contender; its memory is not measured yet."""
    images = opened.images_of(len(turns[0].steps))
    settled = [step for turn in turns for step in turn.settled]
    calls = [seconds for step in settled for seconds in step.calls]
    calls = calls or [step.seconds for step in settled]
    groups = [(turn.conditioner or 0.0) + turn.loop for turn in turns]
    return Row(
        name=name,
        contender=contender,
        device=opened.denoiser.device,
        batch=opened.manifest.batch,
        images=images,
        flops_per_call=opened.manifest.model.flops_per_call,
        call=spread(1000 * seconds for seconds in calls),
        step=spread(1000 * step.seconds for step in settled),
        image=spread(1000 * seconds / images for seconds in groups),
        conditioner_ms=_median_ms([turn.conditioner for turn in turns]),
        loop_ms=spread(1000 * turn.loop for turn in turns).median,
        decoder_ms=_median_ms([turn.decoder for turn in turns]),
        loop_overhead=_median([turn.overhead for turn in turns]),
    )


def _median_ms(seconds: Sequence[float | None]) -> float | None:
    return _median([None if value is None else 1000 * value for value in seconds])


def _median(values: Sequence[float | None]) -> float | None:
    measured = [value for value in values if value is not None]
    return float(np.median(measured)) if measured else None


def _open_all(
    named: Mapping[str, Contender],
    wanted: Wanted,
    bundles: Mapping[Path, Bundle],
    steps: int,
    on_stage: OnStage,
) -> tuple[dict[str, Ready], list[str]]:
    """Open each contender and let it draw once; and why those cannot that were not named."""
    opened, refusals = {}, {}
    moved = on_stage(f"opening {counted(len(named), 'row')}", len(named))
    for name, contender in named.items():
        try:
            opened[name] = _open_and_draw(contender, bundles[contender.folder], steps)
        except PitstopError as error:
            if _was_named(contender, wanted, error):
                raise
            refusals[name] = error
        moved(1)
    if not any(not named[name].is_torch for name in opened):
        raise next(error for name, error in refusals.items() if not named[name].is_torch)
    return opened, [f"{name}: {error.problem}" for name, error in refusals.items()]


def _open_and_draw(contender: Contender, bundle: Bundle, steps: int) -> Ready:
    """A contender that has drawn once; one that cannot is closed."""
    ready = open_contender(contender, bundle)
    with contextlib.ExitStack() as failed:
        failed.callback(ready.close)
        time_run(ready, steps)
        failed.pop_all()
    return ready


def _was_named(contender: Contender, wanted: Wanted, error: PitstopError) -> bool:
    if contender.is_torch:
        return wanted.names_torch and isinstance(error, CheckpointError)
    return wanted.names_graphs


def _open_chains(
    bundles: Sequence[Bundle], options: SessionOptions, folder: Path
) -> tuple[Chains, list[str]]:
    """The matmuls of every bundle's sizes, or why there are none."""
    shapes = dict.fromkeys(chain_of(bundle.manifest) for bundle in bundles)
    chains: Chains = {}
    for chain in shapes:
        if chain is not None:
            chains |= open_chains(chain, options, folder)
    if chains:
        return chains, []
    if not any(shapes):
        return {}, ["share of the matmul peak: the model's config does not tell its sizes"]
    return {}, [
        "share of the matmul peak: neither torch nor onnx is installed, and numpy does not let "
        "itself be told its threads"
    ]


@dataclass(frozen=True)
class _Taken:
    """What came of the rounds: turns by row, FLOP/s of the matmuls, what else went on."""

    turns: Mapping[str, Sequence[TimedRun]]
    matmul_flops: Mapping[str, float]
    seen: Disturbance


def _take_turns(
    opened: Mapping[str, Ready], chains: Chains, steps: int, rounds: int, on_stage: OnStage
) -> _Taken:
    contenders: dict[str, Callable[[], TimedRun | list[float]]] = {
        name: functools.partial(time_run, ready, steps) for name, ready in opened.items()
    }
    contenders |= {name: functools.partial(time_chain, run) for name, (_, run) in chains.items()}
    load, before = load_per_cpu(), read_cpu_clock()
    moved = on_stage("timing in turns", len(contenders) * (rounds + WARM_UPS))
    taken = interleave(contenders, rounds, on_turn=lambda: moved(1))
    seen = disturbance(before, read_cpu_clock(), cpus=os.cpu_count() or 1, load=load)
    turns = {name: [turn for turn in taken[name] if isinstance(turn, TimedRun)] for name in opened}
    runs = {name: [run for run in taken[name] if isinstance(run, list)] for name in chains}
    return _Taken(turns, peak_flops(chains, runs), seen)


def _measure_memory(
    rows: Sequence[Row], steps: int, on_stage: OnStage
) -> tuple[list[Row], list[str]]:
    measured, failed = [], []
    moved = on_stage("load time and memory of each row", len(rows))
    for row in rows:
        fresh = measure_fresh(row.contender, steps)
        if isinstance(fresh, str):
            failed.append(f"load time and memory of {row.name}: {fresh}")
        else:
            row = replace(row, fresh=fresh)
        measured.append(row)
        moved(1)
    return measured, failed
