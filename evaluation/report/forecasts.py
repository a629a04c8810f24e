"""What the fitted forecasts of the bundles keep with fewer calls, for the report."""

from __future__ import annotations

from collections.abc import Sequence

from ...runtime.bundle.folder import Bundle
from ...runtime.bundle.forecasts import usable_or_why_not
from ...runtime.sampling.forecast.fitted import Forecast
from .plots import Fitted


def forecasts_of(bundles: Sequence[Bundle]) -> tuple[list[Fitted], list[str]]:
    """Every forecast of some bundles, each bundle once; and why others cannot be used."""
    each = {bundle.folder: bundle for bundle in bundles}
    fitted, why_not = [], []
    for folder, bundle in each.items():
        before = f"{folder.name}, " if len(each) > 1 else ""
        for forecast in usable_or_why_not(bundle):
            if isinstance(forecast, tuple):
                why_not.append(f"forecast {before}{forecast[0]}: {forecast[1]}")
            else:
                fitted.append(_fitted(forecast, f"{before}{forecast.name}"))
    return fitted, why_not


def _fitted(forecast: Forecast, name: str) -> Fitted:
    return Fitted(
        name, forecast.steps, tuple(sorted(forecast.plans, key=lambda one: one.plan.calls))
    )
