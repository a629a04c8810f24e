"""``pitstop demo``: the main job on the shipped weights, in one table and one picture."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .printing import console, decibel, json_option, megabytes, table, write_json
from .progress import shown_stages

if TYPE_CHECKING:
    from ..evaluation.demo import Demo, Size

LEFT_OUT = (
    "left out: fp16, 30 of the 40 images, 56 of the 64 calibration trajectories. int8 is less "
    "exact for it; `pitstop demo` takes all."
)


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("pitstop-demo"),
    show_default=True,
    help="Folder for the bundle and the picture.",
)
@click.option(
    "--quick",
    is_flag=True,
    help="About a minute on two idle cores: ten images instead of forty, int8 calibrated on 8 "
    "trajectories instead of 64, no fp16.",
)
@json_option
def demo(out: Path, quick: bool, json_path: Path | None) -> None:
    """Export the shipped PiT, draw images with it, and compare them with PyTorch's.

    Example: pitstop demo --out pitstop-demo
    """
    from ..evaluation.demo import QUICK, WHOLE, run_demo
    from ..export.graph_pass import PassBroken

    size = QUICK if quick else WHOLE
    console.print(_plan(size), soft_wrap=True)
    try:
        with shown_stages() as on_stage:
            made = run_demo(out, size, on_stage=on_stage)
    except PassBroken as error:
        click.echo(
            f"pitstop: {error}. No bundle was written; reinstall with the versions in "
            "the project's constraints.txt.",
            err=True,
        )
        sys.exit(1)
    write_json(json_path, figures(made))
    _print(made)
    if quick:
        console.print("quick    " + LEFT_OUT)
    if not made.passed:
        sys.exit(1)


def _plan(size: Size) -> str:
    """What is about to be done, and how long it takes."""
    from ..evaluation.demo import QUICK

    precisions = ", ".join([*size.exported, "int8"])
    time = "about a minute" if size is QUICK else "about four minutes"
    return (
        f"Exports the shipped model to ONNX, calibrates int8 on {size.trajectories} trajectories, "
        f"draws {size.images} images with PyTorch and in {precisions}, and compares them: {time} "
        "on two idle cores."
    )


def figures(made: Demo) -> dict[str, Any]:
    rows = [
        {
            "precision": row.precision,
            "bytes": row.bytes,
            "ms_per_step": row.ms_per_step,
            "relative_l2_max": row.comparison.relative_l2_max,
            "psnr_db_median": row.comparison.psnr_db_median,
            "class_agreement": row.class_agreement,
        }
        for row in made.rows
    ]
    return {"rows": rows, "picture": str(made.picture), "passed": made.passed}


def _print(made: Demo) -> None:
    rows = [["PyTorch fp32", "", f"{made.reference_ms_per_step:.0f} ms", "", "",
             f"{made.reference_class_agreement:.0%}"]]  # fmt: skip
    for row in made.rows:
        rows.append([
            f"ONNX {row.precision}",
            megabytes(row.bytes),
            f"{row.ms_per_step:.0f} ms",
            f"{row.comparison.relative_l2_max:.1e}",
            decibel(row.comparison.psnr_db_median),
            f"{row.class_agreement:.0%}",
        ])
    columns = ["", "file", "time a step", "relative L2", "PSNR", "classified as asked"]
    console.print(table(columns, rows))
    images = len(made.rows[0].comparison.psnr_db)
    console.print(
        f"\nrelative L2: worst single call. PSNR: median of {images} guided images after "
        f"{len(made.rows[0].comparison.step_relative_l2)} steps, on PyTorch's noise."
    )
    console.print(
        "ONNX Runtime's CPU provider computes fp16 in fp32 between nodes; a GPU rounds more often: "
        "the project's docs/precision.md."
    )
    console.print(f"bundle   {made.bundle}\npicture  {made.picture}")
