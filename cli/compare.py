"""``pitstop compare``: bundles against PyTorch, by their goldens or live, and a report of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from rich.text import Text

from .. import OptionError
from ..runtime.figures import counted
from .as_typed import AsTyped, as_typed
from .inputs import check_input
from .options import as_value, sampling_options, session_options, split_names
from .printing import (
    check_place,
    console,
    decibel,
    json_option,
    messages,
    table,
    write_json,
)
from .progress import shown_stages

if TYPE_CHECKING:
    from rich.table import Table

    from ..evaluation.accuracy.compare import Comparison
    from ..evaluation.accuracy.measure import Accuracy, Row

ROWS = 16  # images listed one by one
LIVE = ("images", "steps", "sampler", "cfg_scale")  # options of `--checkpoint` alone


@as_value(
    "checkpoint",
    click.option(
        "--checkpoint",
        metavar="CHECKPOINT|PRESET",
        callback=check_input,
        help="Run PyTorch live instead of reading the goldens.",
    ),
)
def checkpoint_option(checkpoint: str | None) -> str | None:
    """PyTorch's side, without which nothing may be said of it."""
    if checkpoint is None:
        _refuse_live_options()
    return checkpoint


@click.command(cls=AsTyped)
@click.argument(
    "bundles",
    metavar="BUNDLE...",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path),
    callback=check_input,
)
@checkpoint_option
@click.option(
    "--images", type=click.IntRange(min=1), default=8, show_default=True, help="With --checkpoint."
)
@sampling_options("steps", "sampler", "cfg_scale", text="With --checkpoint.")
@click.option(
    "--calls",
    type=int,
    help="Steps of BUNDLE's that call the denoiser, the others are forecast; all by default.",
)
@click.option(
    "--precision",
    "precisions",
    callback=split_names,
    metavar="NAME[,NAME...]",
    help="fp32, fp16, ..., or all that run here; by default the most exact in the bundle.",
)
@click.option(
    "--backend",
    "backends",
    default="auto",
    show_default=True,
    callback=split_names,
    metavar="NAME[,NAME...]",
    help="What runs the denoiser.",
)
@session_options
@click.option(
    "--min-psnr",
    "min_psnr_db",
    type=float,
    metavar="DB",
    help="Gate of the median image; by default 60 for fp32 and fp16, 48 for bf16, 40 for int8 "
    "and with --calls.",
)
@click.option(
    "--max-rel-l2",
    "max_relative_l2",
    type=float,
    metavar="X",
    help="Gate of the worst single call; by default 1e-5 for fp32, and none for the others.",
)
@click.option(
    "--classifier",
    metavar="FILE|fashion",
    callback=check_input,
    help="Judge the images: class agreement, and from 129 images on the Fréchet distance.",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    callback=check_place,
    metavar="FILE.html",
    help="Write a page with curves, images and the error of every block.",
)
@json_option
def compare(report: Path | None, json_path: Path | None, **asked: Any) -> None:
    """Hold BUNDLE against PyTorch in fp32, on the same noise; exit 1 where a gate is not met.

    Several bundles of one model, precisions and backends are compared each with each.

    Example: pitstop compare fashion.bundle --checkpoint fashion --precision all --report page.html
    """
    from ..evaluation.accuracy.measure import Asked, measure

    if report is not None:
        from ..evaluation.report.page import write_report

    with shown_stages() as on_stage:
        accuracy = measure(Asked(**asked, whole=report is not None), on_stage)
    write_json(json_path, figures(accuracy))
    if report is not None:
        write_report(accuracy, report, command=as_typed())
    if accuracy.other_noise is not None:
        messages.print(f"note: {accuracy.other_noise}", style="yellow")
    for note in accuracy.forecast_notes:
        messages.print(f"note: {note}", style="yellow", markup=False)
    _print(accuracy, report)
    if not accuracy.passed:
        sys.exit(1)


def _refuse_live_options() -> None:
    """The goldens' images were drawn at the export: what is said of other ones would be ignored."""
    context = click.get_current_context()
    given = [
        option
        for option in LIVE
        if context.get_parameter_source(option) == ParameterSource.COMMANDLINE
    ]
    if given:
        name = given[0].replace("_", "-")
        raise OptionError(
            f"`--{name}` is of images that PyTorch draws live, but the goldens' are drawn",
            f"Name the checkpoint with `--checkpoint`, or leave `--{name}` out",
        )


def figures(accuracy: Accuracy) -> dict[str, Any]:
    """The figures for ``--json``: an object for one denoiser, rows of them for several."""
    rows = [_row_figures(row) for row in accuracy.rows]
    floors = [_row_figures(row) for row in accuracy.floors]
    common = {
        "passed": accuracy.passed,
        "pytorch": floors,
        "not_measured": accuracy.left_out,
        "other_noise": accuracy.other_noise,
    }
    return {**(rows[0] if len(rows) == 1 else {"rows": rows}), **common}


def _row_figures(row: Row) -> dict[str, Any]:
    """What was not measured is null."""
    compared, quality, blocks = row.comparison, row.quality, row.blocks
    return {
        "bundle": str(row.bundle.folder) if row.bundle else None,
        "backend": compared.backend,
        "precision": compared.precision,
        "reference": compared.reference,
        "steps": len(compared.step_relative_l2),
        "calls": compared.calls or len(compared.step_relative_l2),
        "images": len(compared.psnr_db),
        "relative_l2_max": compared.relative_l2_max,
        "relative_l2": dict(zip(map(str, compared.timesteps), compared.relative_l2, strict=True)),
        "step_relative_l2": compared.step_relative_l2,
        "step_psnr_db": compared.step_psnr_db,
        "psnr_db": compared.psnr_db,
        "psnr_db_median": compared.psnr_db_median,
        "psnr_db_min": min(compared.psnr_db),
        "ssim_median": compared.ssim_median,
        "class_agreement": quality.class_agreement if quality else None,
        "frechet_distance": quality.frechet_distance if quality else None,
        "block_relative_l2": blocks.relative_l2 if blocks else None,
        "first_bad_block": blocks.bad[0] if blocks and blocks.bad else None,
        "failure": compared.failure,
        "min_psnr_db": compared.min_psnr_db,
        "max_relative_l2": compared.max_relative_l2,
        "ms_per_image_step": row.ms_per_image_step,
        "passed": compared.passed,
    }


def _print(accuracy: Accuracy, report: Path | None) -> None:
    console.print(
        f"against PyTorch in fp32, {accuracy.reference}: "
        f"{counted(len(accuracy.goldens.seeds), 'image')}, "
        f"{counted(accuracy.goldens.settings.steps, 'step')}\n"
    )
    if len(accuracy.rows) == 1:
        _print_details(accuracy.rows[0].comparison)
    console.print(_summary((*accuracy.rows, *accuracy.floors)))
    console.print()
    for row in accuracy.rows:
        _print_verdict(row)
    for reason in accuracy.left_out:
        console.print(f"not measured: {reason}", style="dim")
    if report is not None:
        console.print(f"report  {report}")


def _print_details(compared: Comparison) -> None:
    calls = zip(compared.timesteps, compared.relative_l2, strict=True)
    console.print(
        table(["one call at timestep", "relative L2"], ([str(t), f"{e:.1e}"] for t, e in calls))
    )
    shown = _quarters(len(compared.step_relative_l2))
    steps = ([str(k + 1), f"{compared.step_relative_l2[k]:.1e}"] for k in shown)
    console.print()
    console.print(table(["latent after step", "relative L2"], steps))
    console.print()
    listed = compared.worst_first[:ROWS]
    psnr = ([str(image), decibel(compared.psnr_db[image])] for image in listed)
    console.print(table(["image, the worst first", "PSNR"], psnr))
    if len(compared.psnr_db) > ROWS:
        console.print(f"... and {len(compared.psnr_db) - ROWS} images more", style="dim")
    console.print()


def _summary(rows: Sequence[Row]) -> Table:
    """A line for each denoiser, with the columns that anything was measured for."""
    cells = [_cells(row) for row in rows]
    columns = [name for name in cells[0] if any(line[name] for line in cells)]
    lines = (
        [row.name, *(line[name] or "-" for name in columns)]
        for row, line in zip(rows, cells, strict=True)
    )
    return table(["", *columns], lines)


def _cells(row: Row) -> dict[str, str]:
    compared, quality = row.comparison, row.quality
    distance = quality.frechet_distance if quality else None
    return {
        "PSNR": decibel(compared.psnr_db_median),
        "worst image": decibel(min(compared.psnr_db)),
        "worst call": f"{compared.relative_l2_max:.1e}",
        "SSIM": "" if compared.ssim_median is None else f"{compared.ssim_median:.4f}",
        "as asked": "" if quality is None else f"{quality.class_agreement:.1%}",
        "Fréchet": "" if distance is None else f"{distance:.3g}",
    }


def _print_verdict(row: Row) -> None:
    compared, blocks = row.comparison, row.blocks
    limit = compared.max_relative_l2
    worst = f"worst call {compared.relative_l2_max:.1e}" + (
        f", at most {limit:.0e}" if limit else ""
    )
    verdict = ("passed", "green") if compared.passed else ("FAILED", "red")
    console.print(
        Text.assemble(
            f"{row.name}: median PSNR {decibel(compared.psnr_db_median)}, at least "
            f"{compared.min_psnr_db:g} dB; {worst}: ",
            verdict,
        )
    )
    if compared.failure:
        console.print(f"  {compared.failure}", style="red")
    if blocks and blocks.bad:
        first = blocks.bad[0]
        console.print(
            Text.assemble(
                "  first bad block: ",
                (first, "bold"),
                f", relative L2 {blocks.relative_l2[first]:.1e} on the same input as "
                f"{blocks.reference}; rounding explains {blocks.limit:.0e}",
            )
        )


def _quarters(steps: int) -> list[int]:
    return sorted({round(share * (steps - 1) / 4) for share in range(5)})
