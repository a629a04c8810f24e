"""``pitstop calibrate``: an int8 denoiser for a bundle, from its own trajectories."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from .. import OptionError
from .inputs import check_input
from .options import as_value, session_options
from .printing import console, decibel, json_option, pairs, table, write_json
from .progress import shown_stages

if TYPE_CHECKING:
    from ..calibration.recipe import CalibrationReport, Recipe
    from ..runtime.backend import SessionOptions

DRAWN = ("num", "steps", "cfg_scale", "seed")  # what trajectories are drawn with
CPU = "CPUExecutionProvider"


@as_value(
    "recipe",
    click.option(
        "--num", default=64, show_default=True, help="Trajectories of the calibration set."
    ),
    click.option("--steps", default=50, show_default=True, help="Denoiser calls of a trajectory."),
    click.option(
        "--cfg-scale", type=float, help="Guidance scale; 4 by default, or 1 without labels."
    ),
    click.option("--seed", default=0, show_default=True, help="Of the calibration set."),
    click.option(
        "--method", default="mse", show_default=True, help="minmax, percentile, entropy or mse."
    ),
    click.option(
        "--weight-bits",
        default=8,
        show_default=True,
        help="7 keeps int8 exact on CPUs without VNNI and AMX.",
    ),
    click.option("--base", help="fp16 or fp32: the precision of what is not quantized."),
    click.option(
        "--smooth/--no-smooth",
        default=True,
        show_default=True,
        help="Move loud channels into the weights.",
    ),
    click.option("--attention", is_flag=True, help="Quantize the attention's two matmuls too."),
    click.option(
        "--bridge/--no-bridge",
        default=None,
        help="Quantize the bridge's convolutions too; by default on all but TensorRT's targets.",
    ),
    click.option(
        "--budget",
        "budget_db",
        type=float,
        metavar="DB",
        help="The PSNR that whole trajectories must keep.",
    ),
)
def recipe_options(attention: bool, bridge: bool | None, **fields: Any) -> Recipe:
    """How the denoiser is made; first of all, nothing is asked for that would do nothing."""
    _refuse_idle(click.get_current_context())
    from ..calibration.qdq.placement import Placement
    from ..calibration.recipe import Recipe

    return Recipe(**fields, placement=Placement(bridge=bridge, attention=attention))


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path), callback=check_input)
@recipe_options
@click.option(
    "--set",
    "set_path",
    type=click.Path(path_type=Path),
    callback=check_input,
    help="A calibration set from elsewhere, instead of drawing one.",
)
@click.option(
    "--ranges",
    "ranges_path",
    type=click.Path(path_type=Path),
    callback=check_input,
    help="A ranges.json of this very graph, instead of taking ranges.",
)
@session_options
@json_option
def calibrate(
    bundle: Path,
    recipe: Recipe,
    set_path: Path | None,
    ranges_path: Path | None,
    options: SessionOptions,
    json_path: Path | None,
) -> None:
    """Add an int8 denoiser to BUNDLE, with ranges from denoising trajectories of its fp32 one.

    Where --budget is not met, the bundle gets the best graph that was found, and the exit code
    is 1. A search that was stopped goes on where it was.

    Example: pitstop calibrate fashion.bundle --num 64 --budget 45
    """
    from ..calibration.pipeline import calibrate_bundle

    with shown_stages() as on_stage:
        made = calibrate_bundle(
            bundle,
            recipe,
            set_path=set_path,
            ranges_path=ranges_path,
            options=dataclasses.replace(options, provider=options.provider or CPU),
            on_stage=on_stage,
        )
    write_json(json_path, figures(made))
    _print(made)
    if not made.passed:
        sys.exit(1)


def _refuse_idle(ctx: click.Context) -> None:
    """Refuse an option that somebody set and that does nothing beside another one."""
    if ctx.params["ranges_path"] is not None:
        drawn = () if ctx.params["budget_db"] is not None else DRAWN
        _refuse_beside(ctx, "--ranges", ("method", "smooth", *drawn))
    elif ctx.params["set_path"] is not None:
        _refuse_beside(ctx, "--set", DRAWN)


def _refuse_beside(ctx: click.Context, given: str, names: Sequence[str]) -> None:
    for name in names:
        if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT:
            option = f"`--{name.replace('_', '-')}`"
            raise OptionError(f"{option} does nothing beside `{given}`", f"Leave out {option}")


def figures(made: CalibrationReport) -> dict[str, Any]:
    search = made.search
    return {
        "bundle": str(made.bundle),
        "base": made.base,
        "weight_bits": made.weight_bits,
        "sites": list(made.sites),
        "kept_high_precision": list(made.kept),
        "skipped": dict(made.skipped),
        "ranges_sha256": made.ranges_sha256,
        "relative_l2": made.relative_l2,
        "budget_db": search.budget_db if search else None,
        "psnr_db": search.chosen.psnr_db if search else None,
        "pareto": [dataclasses.asdict(point) for point in search.pareto] if search else [],
        "passed": made.passed,
    }


def _bits(made: CalibrationReport) -> str:
    return "" if made.weight_bits == 8 else f", weights of {made.weight_bits} bits"


def _print(made: CalibrationReport) -> None:
    rows = [
        ("bundle", str(made.bundle)),
        (
            made.precision,
            f"{len(made.sites)} sites on {made.base}{_bits(made)}; "
            f"{len(made.skipped)} layers left alone",
        ),
        ("parity", f"relative L2 {made.relative_l2:.1e} against PyTorch, single calls"),
    ]
    if made.coverage:
        worst = max(made.coverage.saturation.values())
        drawn = made.coverage.rows
        rows.append(("set", f"{drawn} rows; at most {worst:.2%} of unseen values are clipped"))
    if made.search:
        met = "met" if made.search.passed else "not met: the best that was found is kept"
        reached = decibel(made.search.chosen.psnr_db)
        rows.append(("budget", f"{made.search.budget_db:g} dB {met}, {reached} reached"))
        rows.append(("kept", ", ".join(made.kept) or "nothing"))
    console.print(pairs(rows))
    if made.search:
        console.print()
        points = [[str(len(one.kept)), decibel(one.psnr_db)] for one in made.search.pareto]
        console.print(table(["sites kept", "median PSNR"], points))
