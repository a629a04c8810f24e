"""The forecasts of a bundle, as tables and as figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .printing import console, table

if TYPE_CHECKING:
    from ..runtime.bundle.folder import Bundle
    from ..runtime.sampling.forecast.fitted import Forecast


def forecast_figures(fitted: Forecast) -> dict[str, Any]:
    """For ``--json``."""
    return {
        "name": fitted.name,
        "sampler": fitted.sampler,
        "steps": fitted.steps,
        "spacing": fitted.spacing,
        "eta": fitted.eta,
        "guidance": list(fitted.guidance),
        "trajectories": fitted.trajectories,
        "held_out": fitted.held_out,
        "plans": [
            {
                "calls": one.plan.calls,
                "called": list(one.plan.called),
                "expected_db": one.expected_db,
                "held_out_db": one.held_out_db,
                "held_out_low_db": one.held_out_low_db,
            }
            for one in fitted.plans
        ],
    }


def print_forecast(fitted: Forecast) -> None:
    """A line for each number of calls; PSNR against all calls."""
    lines = (
        [
            f"{one.plan.calls} of {fitted.steps}",
            *(
                f"{decibels:.1f} dB"
                for decibels in (one.expected_db, one.held_out_db, one.held_out_low_db)
            ),
        ]
        for one in fitted.plans
    )
    console.print(table(["calls", "expected", "held out", "5th percentile"], lines))


def forecasts_in(bundle: Bundle) -> list[dict[str, Any]]:
    """Of each file its figures, or its name and why it cannot be used."""
    from ..runtime.bundle.forecasts import usable_or_why_not

    return [
        forecast_figures(one) if not isinstance(one, tuple) else {"name": one[0], "why_not": one[1]}
        for one in usable_or_why_not(bundle)
    ]


def print_forecasts(bundle: Bundle) -> None:
    from ..runtime.bundle.forecasts import usable_or_why_not

    for one in usable_or_why_not(bundle):
        console.print()
        if isinstance(one, tuple):
            console.print(f"forecast {one[0]} is not used: {one[1]}", markup=False)
            continue
        console.print(f"forecast {one.name}", style="bold", markup=False)
        print_forecast(one)
