"""The forecasts in a bundle: files beside what the manifest knows, each for one denoiser."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ... import BundleError, OptionError
from ..said import shortly
from ..sampling.forecast.fitted import Forecast, way_of
from ..sampling.forecast.plan import Plan
from ..sampling.forecast.taylor import taylor_plan
from ..sampling.settings import Settings
from ..whole_file import whole_file
from .folder import Bundle
from .manifest import CONDITIONERS, Manifest
from .schedule_hash import schedule_sha256

FOLDER = "forecasts"
AGAIN = "Remove it, and run `pitstop forecast` again"


@dataclass(frozen=True)
class Chosen:
    """The plan of a run, and what is to be said of it.

    Attributes:
        plan: Of the run.
        note: What a user should know; empty where a forecast was fitted for just this.
    """

    plan: Plan
    note: str = ""


def graphs_fitted(manifest: Manifest, precision: str) -> dict[str, str]:
    """What a forecast depends on: sha256 of the denoiser, and of what feeds it, by name."""
    names = [f"denoiser.{precision}", *(name for name in CONDITIONERS if name in manifest.graphs)]
    return {name: manifest.graph_sha256(name) for name in names}


def read_forecasts(bundle: Bundle) -> list[Forecast]:
    """All that are in a bundle.

    Raises:
        BundleError: One is no forecast, or of another denoiser.
    """
    return [load_forecast(path, bundle.manifest) for path in list_forecasts(bundle)]


def usable_or_why_not(bundle: Bundle) -> list[Forecast | tuple[str, str]]:
    """Each that can be used; of any other, and of a folder that is none, its name and why not."""
    listed: list[Forecast | tuple[str, str]] = []
    try:
        paths = list_forecasts(bundle)
    except BundleError as error:
        return [(FOLDER, error.problem)]
    for path in paths:
        try:
            listed.append(load_forecast(path, bundle.manifest))
        except BundleError as error:
            listed.append((path.stem, error.problem))
    return listed


def list_forecasts(bundle: Bundle) -> list[Path]:
    """The files, by name.

    Raises:
        BundleError: Something else is where their folder should be.
    """
    return sorted(_folder(bundle).glob("[!.]*.json"))


def forecast_file(bundle: Bundle, name: str) -> Path:
    """Where the one of a name is, or may be written.

    Raises:
        BundleError: Something else is there, or where its folder should be.
    """
    path = _folder(bundle) / f"{name}.json"
    _refuse_no_file(path)
    return path


def _folder(bundle: Bundle) -> Path:
    folder = bundle.folder / FOLDER
    if os.path.lexists(folder) and not folder.is_dir():
        raise BundleError(f"{folder} is no folder, expected one of forecasts", "Remove it")
    return folder


def _refuse_no_file(path: Path) -> None:
    """A pipe would be waited for, and a folder is not replaced by a file."""
    if os.path.lexists(path) and not path.is_file():
        raise BundleError(
            f"{path} is a folder, a pipe or a link to nothing, expected a forecast's file", AGAIN
        )


def read_forecast(bundle: Bundle, name: str) -> Forecast | None:
    """The one of a name; None where there is none that can be used, and it may be replaced.

    Raises:
        BundleError: Something else than a file is there.
    """
    path = forecast_file(bundle, name)
    try:
        return load_forecast(path, bundle.manifest) if path.exists() else None
    except BundleError:
        return None


def write_forecast(bundle: Bundle, forecast: Forecast) -> Path:
    """Write a forecast into a bundle, whole or not at all.

    Raises:
        BundleError: It cannot be written.
    """
    path = forecast_file(bundle, forecast.name)
    try:
        path.parent.mkdir(exist_ok=True)
        with whole_file(path) as beside:
            beside.write_text(forecast.to_json() + "\n", encoding="utf-8")
    except OSError as error:
        raise BundleError(
            f"{path} cannot be written ({error.strerror or error})", "Free some space there"
        ) from error
    return path


def choose_plan(
    forecasts: Sequence[Forecast], settings: Settings, changes: Collection[int] = ()
) -> Chosen | None:
    """The plan for settings whose names are settled; None where every step calls.

    Of several forecasts the one whose guidance is nearest is taken, and of those the one of the
    narrowest range; where there is none, Taylor's, told the steps where guidance ``changes``.
    """
    if settings.calls is None:
        return None
    fitting = [
        forecast
        for forecast in forecasts
        if not settings.beyond_forecasts
        and forecast.way == way_of(settings)
        and forecast.plan(settings.calls)
    ]
    if not fitting:
        return Chosen(
            taylor_plan(settings.steps, settings.calls, changes), _why_taylor(forecasts, settings)
        )
    nearest = min(fitting, key=lambda forecast: _far(forecast, settings.cfg_scale))
    plan = nearest.plan(settings.calls)
    assert plan is not None
    if not nearest.away(settings.cfg_scale):
        return Chosen(plan)
    low, high = nearest.guidance
    return Chosen(
        plan,
        f"the forecast was fitted at guidance {_range(low, high)}, and this run has "
        f"{settings.cfg_scale:g}: its images may be farther from those of all calls",
    )


def taylor_for_a_part(
    settings: Settings, left: int, changes: Collection[int] = ()
) -> Chosen | None:
    """The plan of a run's last ``left`` steps: Taylor's, since fits are of whole runs.

    It is told the steps, of those, where guidance ``changes``.

    Raises:
        OptionError: There are fewer steps than calls.
    """
    assert settings.calls is not None
    if settings.calls > left:
        raise OptionError(
            f"{settings.calls} calls were asked for, and this strength leaves {left} of "
            f"{settings.steps} steps",
            f"Choose at most {left} calls, a greater strength or more steps",
        )
    if settings.calls == left:
        return None
    return Chosen(
        taylor_plan(left, settings.calls, changes),
        f"forecasts are fitted for whole runs, and of this one the last {left} of "
        f"{settings.steps} steps are taken, so Taylor's series of order 2 stands in",
    )


def _far(forecast: Forecast, cfg_scale: float) -> tuple[float, float]:
    """Less for what suits a guidance scale better: nearer to it, then fitted for fewer others."""
    low, high = forecast.guidance
    return forecast.away(cfg_scale), high - low


def _why_taylor(forecasts: Sequence[Forecast], settings: Settings) -> str:
    if settings.beyond_forecasts:
        return (
            f"forecasts are fitted without {settings.beyond_forecasts}, so Taylor's series of "
            "order 2 stands in"
        )
    asked = _said(settings.sampler, settings.steps, settings.spacing, settings.eta)
    there = [
        f"{_said(*forecast.way)} with {', '.join(str(one.plan.calls) for one in forecast.plans)}"
        for forecast in forecasts
    ]
    return (
        f"no forecast was fitted for {asked} with {settings.calls} calls"
        + (f" (but for {'; '.join(there)})" if there else "")
        + ", so Taylor's series of order 2 stands in: `pitstop forecast` fits one"
    )


def _said(sampler: str, steps: int, spacing: str, eta: float) -> str:
    return f"{sampler}, {steps} steps, spacing {spacing}" + (f", eta {eta:g}" if eta else "")


def _range(low: float, high: float) -> str:
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def load_forecast(path: Path, manifest: Manifest) -> Forecast:
    """Read a file, for the bundle of a manifest.

    Raises:
        BundleError: It is no forecast, or of another denoiser.
    """
    _refuse_no_file(path)
    try:
        forecast = Forecast.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{path} holds no forecast ({error})", AGAIN) from error
    for name, digest in forecast.graphs.items():
        if name not in manifest.graphs:
            raise BundleError(
                f"{path} names the graph {shortly(name)}, expected one of the bundle's", AGAIN
            )
        if manifest.graph_sha256(name) != digest:
            raise BundleError(f"{path} was fitted with another {name} than the bundle's", AGAIN)
    if not any(
        set(forecast.graphs) == set(graphs_fitted(manifest, precision))
        for precision in manifest.precisions
    ):
        named = ", ".join(forecast.graphs) or "none"
        raise BundleError(
            f"{path} names the graphs {named}, expected a denoiser and all that feeds it", AGAIN
        )
    if forecast.schedule_sha256 != schedule_sha256(manifest):
        raise BundleError(
            f"{path} was fitted with another schedule or prediction type than the bundle's", AGAIN
        )
    return forecast
