"""From a bundle to a fitted forecast in it: draw, measure, choose, fit, judge, write."""

from __future__ import annotations

import contextlib
import hashlib
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import SupportsFloat

import numpy as np

from .. import BundleError, OptionError
from ..runtime.bundle.folder import Bundle
from ..runtime.bundle.forecasts import (
    FOLDER,
    forecast_file,
    graphs_fitted,
    read_forecast,
    write_forecast,
)
from ..runtime.bundle.in_place import held
from ..runtime.bundle.schedule_hash import schedule_sha256
from ..runtime.pipeline import Pipeline
from ..runtime.sampling.forecast.fitted import FittedPlan, Forecast
from ..runtime.sampling.forecast.plan import LEAST_CALLS
from ..runtime.stage import OnStage, unheard
from .fit import fit_plan, mean_variances
from .gains import measure_gains, places
from .gram import Doubles, gram
from .judge import judge_plan, peak
from .recipe import Recipe
from .search import FARTHEST, choose_called, expected_error
from .trajectories import FIRST_SEED, Walked, walk_all

EXACT_DB, TINY = 200.0, 1e-30
GAIN_IMAGES = 8  # that errors are followed in


@dataclass(frozen=True)
class Drawn:
    """What a fit is made from: trajectories to fit on, and others to judge by."""

    fitted_on: Sequence[Walked]
    held_out: Sequence[Walked]


def fit_forecast(
    bundle: Bundle, pipeline: Pipeline, recipe: Recipe, on_stage: OnStage = unheard
) -> tuple[Forecast, Path]:
    """Fit a forecast, and write it into the bundle beside those that are there.

    A run that was stopped goes on with the trajectories that it has drawn. The same recipe gives
    the same forecast. Plans of other numbers of calls that were fitted alike are kept.

    Args:
        bundle: That is open.
        pipeline: Its most exact denoiser.
        recipe: What to fit.
        on_stage: Told how far it is.

    Raises:
        PitstopError: A setting does not fit the model, or the bundle cannot be written.
    """
    recipe = replace(recipe, settings=pipeline.settle(recipe.settings))
    empty = _empty(pipeline, recipe)
    forecast_file(bundle, empty.name)  # refuses what no file can replace, before anything is drawn
    with _work_folder(bundle, empty, recipe.scales, on_stage) as folder:
        plans = _plans(pipeline, recipe, folder, on_stage)
        with held(bundle.folder / FOLDER):  # fits of other scales may write the same file
            forecast = _beside_older(bundle, replace(empty, plans=tuple(plans)))
            path = write_forecast(bundle, forecast)
        shutil.rmtree(folder, ignore_errors=True)
    return forecast, path


def _plans(pipeline: Pipeline, recipe: Recipe, folder: Path, on_stage: OnStage) -> list[FittedPlan]:
    drawn = _draw(pipeline, recipe, folder, on_stage)
    gains = _gains(pipeline, drawn, on_stage)
    products, variances = gram(drawn.fitted_on), mean_variances(drawn.fitted_on)

    def fitted(calls: int) -> FittedPlan:
        if recipe.called:
            chosen = recipe.called, expected_error(products, gains, recipe.called)
        else:
            chosen = choose_called(products, gains, calls)
        return _fit(pipeline, drawn, products, chosen, variances, on_stage)

    if recipe.budget_db is None:
        return [fitted(calls) for calls in recipe.calls]
    return _keep_budget(fitted, recipe.settings.steps, recipe.budget_db)


def _empty(pipeline: Pipeline, recipe: Recipe) -> Forecast:
    settings = recipe.settings
    return Forecast(
        sampler=settings.sampler,
        steps=settings.steps,
        spacing=settings.spacing,
        eta=settings.eta,
        guidance=(min(recipe.scales), max(recipe.scales)),
        graphs=graphs_fitted(pipeline.manifest, pipeline.precision),
        schedule_sha256=schedule_sha256(pipeline.manifest),
        trajectories=recipe.num,
        held_out=recipe.held_out,
        plans=(),
    )


@contextlib.contextmanager
def _work_folder(
    bundle: Bundle, empty: Forecast, scales: tuple[float, ...], on_stage: OnStage
) -> Iterator[Path]:
    """Hold where trajectories are kept until the fit is done; hidden, so that nothing takes it.

    Another for each set of guidance scales: a forecast says the least and the largest alone.
    """
    facts = f"{empty.to_json()}{scales!r}{FIRST_SEED}"
    digest = hashlib.sha256(facts.encode()).hexdigest()[:16]
    folder = bundle.folder / FOLDER / f".{digest}"
    wait = f"waiting for another fit of {empty.name}"
    with contextlib.ExitStack() as hold:
        while True:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                hold.enter_context(held(folder, on_wait=lambda: on_stage(wait)))
                break
            except FileNotFoundError:  # removed by the fit that was waited for
                continue
            except OSError as error:
                raise BundleError(
                    f"{folder} cannot be made ({error.strerror or error})",
                    "Copy the bundle to where you may write",
                ) from error
        yield folder


def _draw(pipeline: Pipeline, recipe: Recipe, folder: Path, on_stage: OnStage) -> Drawn:
    """Numbers run on from scale to scale, so that no two trajectories share their noise."""
    count = recipe.num + recipe.held_out
    moved = on_stage(f"drawing {count} trajectories", count, recipe.settings.steps)
    parts: list[list[Walked]] = []
    first = 0
    for total in (recipe.num, recipe.held_out):
        walked: list[Walked] = []
        for scale, share in zip(recipe.scales, recipe.shares(total), strict=True):
            numbers = range(first, first + share)
            first += share
            if share:
                walked += walk_all(pipeline, recipe.at(scale), numbers, folder, moved)
        parts.append(walked)
    return Drawn(*parts)


def _gains(pipeline: Pipeline, drawn: Drawn, on_stage: OnStage) -> Doubles:
    some: list[Walked] = []
    apart = max(1, len(drawn.fitted_on) // GAIN_IMAGES)
    for one in drawn.fitted_on[::apart]:  # of every guidance scale
        if sum(other.request.images for other in some) < GAIN_IMAGES:
            some.append(one)
    steps = places(some[0].request.steps)
    moved = on_stage("following errors to the image", len(some) * len(steps))
    return measure_gains(pipeline, some, moved)


def _fit(
    pipeline: Pipeline,
    drawn: Drawn,
    products: Doubles,
    chosen: tuple[tuple[int, ...], float],
    variances: tuple[float, ...],
    on_stage: OnStage,
) -> FittedPlan:
    """The plan of the called steps that were chosen, with the error that is expected of them."""
    called, error = chosen
    plan = fit_plan(products, called, variances)
    images = sum(one.request.images for one in drawn.held_out)
    moved = on_stage(f"judging {len(called)} calls", images)
    decibels = judge_plan(pipeline, drawn.held_out, plan, moved)
    most = peak(drawn.fitted_on, pipeline.manifest.latent_space)
    return FittedPlan(
        plan,
        expected_db=_at_most(20 * math.log10(most) - 10 * math.log10(max(error, TINY))),
        held_out_db=_at_most(np.median(decibels)),
        held_out_low_db=_at_most(np.percentile(decibels, 5)),
    )


def _at_most(decibels: SupportsFloat) -> float:
    """A finite number, for the file."""
    return min(float(decibels), EXACT_DB)


def _keep_budget(
    fitted: Callable[[int], FittedPlan], steps: int, budget_db: float
) -> list[FittedPlan]:
    """The plan of the fewest calls that keep a budget, and those that were tried for it.

    Raises:
        OptionError: None does.
    """
    tried: dict[int, FittedPlan] = {}
    low, high = max(LEAST_CALLS, -(-steps // FARTHEST)) - 1, steps
    while high - low > 1:
        middle = (low + high) // 2
        tried[middle] = fitted(middle)
        low, high = (low, middle) if tried[middle].held_out_db >= budget_db else (middle, high)
    if high == steps:
        best = max(one.held_out_db for one in tried.values())
        raise OptionError(
            f"No fewer calls than {steps} keep {budget_db:g} dB: the most was {best:.1f} dB",
            "Choose a lower `--budget`",
        )
    return [tried[calls] for calls in sorted(tried)]


def _beside_older(bundle: Bundle, forecast: Forecast) -> Forecast:
    """With the plans of other numbers of calls that were fitted alike."""
    older = read_forecast(bundle, forecast.name)
    kept = {one.plan.calls: one for one in forecast.plans}
    if older is not None and replace(older, plans=()) == replace(forecast, plans=()):
        kept = {one.plan.calls: one for one in older.plans} | kept
    return replace(forecast, plans=tuple(kept[calls] for calls in sorted(kept)))
