"""``pitstop bench``: how fast bundles are, beside PyTorch and the machine's matmul peak."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .inputs import check_input
from .options import session_options, split_names
from .printing import check_place, console, json_option, megabytes, messages, table, write_json
from .progress import shown_stages

if TYPE_CHECKING:
    from ..evaluation.speed.bench import Bench, Row
    from ..evaluation.speed.spread import Spread
    from ..runtime.machine.system import Machine


@click.command()
@click.argument(
    "bundles",
    metavar="BUNDLE...",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path),
    callback=check_input,
)
@click.option(
    "--backend",
    "backends",
    multiple=True,
    callback=split_names,
    metavar="NAME",
    help="What runs the denoiser; repeatable; by default all that can here.",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    callback=split_names,
    metavar="NAME",
    help="fp32, fp16, ...; repeatable; by default all in the bundle that run here.",
)
@session_options
@click.option("--steps", type=click.IntRange(min=2), default=10, show_default=True,
              help="Of a trajectory.")  # fmt: skip
@click.option("--calls", type=int,
              help="Steps of BUNDLE's that call the denoiser, the others are forecast; all by "
              "default.")  # fmt: skip
@click.option("--cfg-interval", metavar="LOW:HIGH",
              help="Time each graph once more, guided from LOW to HIGH alone.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(1, 10_000), default=5, show_default=True,
              help="Trajectories of each row, in turns.")  # fmt: skip
@click.option("--torch/--no-torch", default=None, help="PyTorch's rows; by default where they can.")
@click.option(
    "--checkpoint",
    metavar="CHECKPOINT|PRESET",
    default="",
    callback=check_input,
    help="What PyTorch runs; by default the preset that the bundle is named after.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    callback=check_place,
    metavar="FILE.png",
    help="Draw the rows: .png, .svg or .pdf.",
)
@json_option
def bench(
    bundles: tuple[Path, ...],
    steps: int,
    rounds: int,
    plot: Path | None,
    json_path: Path | None,
    **wanted: Any,
) -> None:
    """Time BUNDLE on every backend in every precision, in turns with PyTorch.

    Example: pitstop bench pit-s.bundle --plot bench.png --json bench.json
    """
    from ..evaluation.speed.bench import run_bench
    from ..evaluation.speed.contenders import Wanted
    from ..runtime.machine.system import this_machine

    if plot is not None:
        from ..evaluation.speed.plot import check_suffix, plot_bench

        check_suffix(plot)
    with shown_stages() as on_stage:
        timed = run_bench(bundles, Wanted(**wanted), steps=steps, rounds=rounds, on_stage=on_stage)
    machine = this_machine()
    write_json(json_path, figures(timed, machine))
    if plot is not None:
        plot_bench(timed, plot)
    _print(timed, machine, plot)


def figures(timed: Bench, machine: Machine) -> dict[str, Any]:
    """The figures for ``--json``; what was not measured is null."""
    return {
        "rows": [_row_figures(timed, row) for row in timed.rows],
        "steps": timed.steps,
        "rounds": timed.rounds,
        "matmul_flops_per_second": timed.matmul_flops,
        "warnings": timed.warnings,
        "not_measured": timed.left_out,
        "machine": dataclasses.asdict(machine),
    }


def _row_figures(timed: Bench, row: Row) -> dict[str, Any]:
    fresh = row.fresh
    return {
        "name": row.name,
        "bundle": str(row.contender.folder),
        "checkpoint": row.contender.checkpoint or None,
        "backend": row.contender.backend,
        "device": row.device,
        "precision": row.contender.precision,
        "threads": row.contender.options.threads,
        "batch": row.batch,
        "calls": row.contender.calls or timed.steps,
        "cfg_interval": row.contender.cfg_interval,
        "images_together": row.images,
        **_spread_figures("ms_per_call", row.call),
        **_spread_figures("ms_per_step", row.step),
        **_spread_figures("ms_per_image", row.image),
        "images_per_second": row.images_per_second,
        "conditioner_ms_median": row.conditioner_ms,
        "loop_ms_median": row.loop_ms,
        "decoder_ms_median": row.decoder_ms,
        "loop_overhead_share": row.loop_overhead,
        "load_seconds": fresh.load_seconds if fresh else None,
        "peak_memory_bytes": fresh.peak_memory_bytes if fresh else None,
        "device_memory_bytes": fresh.device_memory_bytes if fresh else None,
        "flops_per_call": row.flops_per_call,
        "flops_per_second": row.flops_per_second,
        "matmul_peak_share": timed.peak_share(row),
        "speedup_over_torch": timed.speedup(row),
    }


def _spread_figures(name: str, series: Spread) -> dict[str, float]:
    return {f"{name}_{part}": value for part, value in dataclasses.asdict(series).items()}


def _print(timed: Bench, machine: Machine, plot: Path | None) -> None:
    for cells in (_speed_cells, _part_cells):
        lines = [(row.name, cells(timed, row)) for row in timed.rows]
        columns = [name for name in lines[0][1] if any(line[name] for _, line in lines)]
        console.print(
            table(
                ["ms", *columns],
                ([name, *(line[column] or "-" for column in columns)] for name, line in lines),
            )
        )
        console.print()
    best = next(iter(timed.matmul_flops.items()), None)
    if best is not None:
        console.print(f"peak: matmuls at {best[1] / 1e9:,.0f} GFLOP/s, {best[0]}", markup=False)
    features = ", ".join(machine.cpu_features) or "no features that precisions differ by"
    console.print(f"on: {machine.processor}, {machine.cores} cores, {features}", markup=False)
    for note in timed.notes:
        messages.print(f"note: {note}", style="yellow", markup=False)
    for warning in timed.warnings:
        console.print(f"warning: this machine is noisy: {warning}", style="yellow", markup=False)
    for reason in timed.left_out:
        console.print(f"not measured: {reason}", style="dim", markup=False)
    if plot is not None:
        console.print(f"plot  {plot}", markup=False)


def _speed_cells(timed: Bench, row: Row) -> dict[str, str]:
    share, speedup = timed.peak_share(row), timed.speedup(row)
    return {
        "call": _ms(row.call.median),
        "p10-p90": f"{_ms(row.call.p10)}-{_ms(row.call.p90)}",
        "step": _ms(row.step.median),
        "image": _ms(row.image.median),
        "img/s": f"{row.images_per_second:.3g}",
        "peak": "" if share is None else f"{share:.0%}",
        "torch": "" if speedup is None else f"{speedup:.2f}x",
    }


def _part_cells(timed: Bench, row: Row) -> dict[str, str]:
    fresh = row.fresh
    memory = fresh.peak_memory_bytes if fresh else None
    device = fresh.device_memory_bytes if fresh else None
    return {
        "conditioner": _ms(row.conditioner_ms),
        "loop": _ms(row.loop_ms),
        "outside": "-" if row.loop_overhead is None else f"{row.loop_overhead:.1%}",
        "decoder": _ms(row.decoder_ms),
        "load": f"{fresh.load_seconds:.2f} s" if fresh else "",
        "memory": "" if memory is None else megabytes(memory),
        "GPU": "" if device is None else megabytes(device),
    }


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:,.0f}"
