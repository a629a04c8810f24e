"""``pitstop forecast``: fit what stands in where the denoiser is not called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .forecasts_table import forecast_figures, print_forecast
from .inputs import check_input
from .options import backend_option, sampling_options, session_options
from .printing import console, json_option, pairs, write_json
from .progress import shown_stages

if TYPE_CHECKING:
    from ..runtime.backend import SessionOptions
    from ..runtime.sampling.settings import Settings


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path), callback=check_input)
@sampling_options("steps", "sampler", "eta", "spacing")
@click.option(
    "--cfg-scale",
    "scales",
    type=float,
    multiple=True,
    default=(4.0,),
    show_default=True,
    help="Guidance scale to fit for; repeatable, for all between the least and the largest.",
)
@click.option("--calls", type=int, multiple=True, help="Steps that call the denoiser; repeatable.")
@click.option("--budget", type=float, metavar="DB", help="The fewest calls that keep this PSNR.")
@click.option("--all", "every", is_flag=True, help="From a sixth of the steps to most of them.")
@click.option(
    "--router",
    type=click.Path(path_type=Path),
    callback=check_input,
    help="Learning-to-Cache's, whose steps are called; needs PyTorch.",
)
@click.option("--num", default=32, show_default=True, help="Trajectories to fit on.")
@backend_option
@session_options
@json_option
def forecast(
    bundle: Path,
    settings: Settings,
    scales: tuple[float, ...],
    calls: tuple[int, ...],
    budget: float | None,
    every: bool,
    router: Path | None,
    num: int,
    backend: str,
    options: SessionOptions,
    json_path: Path | None,
) -> None:
    """Choose the steps of BUNDLE that call the denoiser, and fit what stands in at the others.

    Trajectories are drawn with all calls by the most exact denoiser; half as many others judge.
    A fit that was stopped goes on with what it has drawn. `generate --calls` draws by it.

    Example: pitstop forecast fashion.bundle --cfg-scale 2 --calls 25 --calls 17
    """
    from ..forecast.pipeline import fit_forecast
    from ..forecast.recipe import Recipe, all_calls
    from ..runtime.bundle.folder import open_bundle
    from ..runtime.opened import open_denoiser
    from ..runtime.pipeline import Pipeline

    wanted = (*calls, *all_calls(settings.steps)) if every else calls
    called = () if router is None else _routed(router, settings, chosen=bool(wanted))
    wanted = (len(called),) if called else wanted
    scales, wanted = tuple(sorted(set(scales))), tuple(sorted(set(wanted)))
    recipe = Recipe(settings, scales, wanted, budget, num, called)
    with shown_stages() as on_stage:
        on_stage(f"opening {bundle}")
        opened = open_bundle(bundle)
        with Pipeline.of(open_denoiser(opened, None, backend, options)) as pipeline:
            fitted, path = fit_forecast(opened, pipeline, recipe, on_stage)
    write_json(json_path, {"file": str(path), **forecast_figures(fitted)})
    print_forecast(fitted)
    console.print()
    console.print(pairs([("forecast", str(path))]), soft_wrap=True)


def _routed(router: Path, settings: Settings, *, chosen: bool) -> tuple[int, ...]:
    """The steps that a router calls."""
    from .. import OptionError
    from ..models.router import read_router
    from ..runtime.sampling.forecast.plan import LEAST_CALLS

    if chosen:
        raise OptionError(
            "The router says which steps are called, and so do `--calls` and `--all`",
            "Choose one of them",
        )
    steps, called = read_router(router)
    if steps != settings.steps:
        raise OptionError(
            f"{router} is for {steps} steps, and {settings.steps} were asked for",
            f"Choose `--steps {steps}`",
        )
    if not LEAST_CALLS <= len(called) < steps:
        raise OptionError(
            f"{router} calls {len(called)} of {steps} steps, expected at least {LEAST_CALLS} and "
            "not all",
            "Name another router, or choose `--calls` instead",
        )
    return called
