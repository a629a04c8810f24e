"""A fitted forecast: its plans, what they were fitted for, and the file that both are kept in."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ...bundle.fields import a_count, a_number, a_table, a_text
from ...said import shortly
from ..settings import Settings
from .plan import LEAST_CALLS, Plan

VERSION = 2
MOST_STEPS, MOST_TERMS = 10_000, 8
MOST_FACTOR, MOST_VARIANCE = 1e3, 10.0  # beyond any fit; larger ones ruin the images


@dataclass(frozen=True)
class FittedPlan:
    """A plan, and how far its images are from those of all calls.

    Attributes:
        plan: Of a run.
        expected_db: PSNR of the mean squared error that the fit leaves.
        held_out_db: PSNR of the median image of others.
        held_out_low_db: Of those, at the 5th percentile.
    """

    plan: Plan
    expected_db: float
    held_out_db: float
    held_out_low_db: float


@dataclass(frozen=True)
class Forecast:
    """Plans of several numbers of calls, for one way to sample.

    Attributes:
        sampler: Of the run, as are the next three.
        steps: Called or not.
        spacing: Of the timesteps.
        eta: DDIM's share of fresh noise.
        guidance: The least and the largest scale that it was fitted at.
        graphs: sha256 of the denoiser that it was fitted with, and of what feeds it, by name.
        schedule_sha256: Of what their answers are taken for.
        trajectories: How many it was fitted on.
        held_out: How many others judged it.
        plans: The fewest calls first.
    """

    sampler: str
    steps: int
    spacing: str
    eta: float
    guidance: tuple[float, float]
    graphs: Mapping[str, str]
    schedule_sha256: str
    trajectories: int
    held_out: int
    plans: tuple[FittedPlan, ...]

    @property
    def name(self) -> str:
        """Of its file."""
        low, high = self.guidance
        spacing = "" if self.spacing == "auto" else f"-{self.spacing}"
        eta = f"-eta{self.eta:g}" if self.eta else ""
        scale = f"{low:g}" if low == high else f"{low:g}to{high:g}"
        return f"{self.sampler}{spacing}-{self.steps}{eta}-cfg{scale}"

    @property
    def way(self) -> tuple[str, int, str, float]:
        """What a run must have in common with it."""
        return self.sampler, self.steps, self.spacing, self.eta

    def plan(self, calls: int) -> Plan | None:
        return next((one.plan for one in self.plans if one.plan.calls == calls), None)

    def away(self, cfg_scale: float) -> float:
        """How far a guidance scale is outside of what it was fitted at; 0 inside."""
        low, high = self.guidance
        return max(low - cfg_scale, cfg_scale - high, 0.0)

    def to_json(self) -> str:
        plans = [
            {
                "calls": one.plan.calls,
                "called": one.plan.called,
                "expected_db": one.expected_db,
                "held_out_db": one.held_out_db,
                "held_out_low_db": one.held_out_low_db,
                "factors": one.plan.factors,
                "variances": one.plan.variances,
            }
            for one in self.plans
        ]
        return json.dumps({"version": VERSION, **asdict(self), "plans": plans}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Forecast:
        """Read what `to_json` wrote.

        Raises:
            ValueError: It is something else, or holds a number that cannot be.
        """
        content = a_table(json.loads(text), "The file")
        if content.get("version") != VERSION:
            raise ValueError(
                f"version is {shortly(content.get('version'))}, this pitstop reads {VERSION}"
            )
        steps = a_count(content.get("steps"), "steps", most=MOST_STEPS)
        graphs = a_table(content.get("graphs"), "graphs")
        return cls(
            sampler=a_text(content.get("sampler"), "sampler"),
            steps=steps,
            spacing=a_text(content.get("spacing"), "spacing"),
            eta=_within(a_number(content, "eta", 0.0), "eta", 0.0, 1.0),
            guidance=_guidance(_numbers(content, "guidance")),
            graphs={name: a_text(digest, "graphs") for name, digest in graphs.items()},
            schedule_sha256=a_text(content.get("schedule_sha256"), "schedule_sha256"),
            trajectories=a_count(content.get("trajectories"), "trajectories"),
            held_out=a_count(content.get("held_out"), "held_out"),
            plans=_plans(_list(content, "plans"), steps),
        )


def way_of(settings: Settings) -> tuple[str, int, str, float]:
    """As `Forecast.way`, of settings whose names are settled."""
    return settings.sampler, settings.steps, settings.spacing, settings.eta


def _plans(rows: list[Any], steps: int) -> tuple[FittedPlan, ...]:
    plans = tuple(_plan(a_table(row, "plans"), steps) for row in rows)
    calls = [one.plan.calls for one in plans]
    if not plans or len(set(calls)) != len(calls):
        said = shortly(calls) if calls else "no"
        raise ValueError(
            f"plans are of {said} calls, expected one at least, each of another number"
        )
    return plans


def _plan(content: dict[str, Any], steps: int) -> FittedPlan:
    rows = _list(content, "factors")
    plan = Plan(
        tuple(_numbers({"factors": row}, "factors") for row in rows),
        _numbers(content, "variances"),
    )
    if plan.steps != steps or len(plan.variances) not in (0, steps):
        raise ValueError(f"a plan has factors for {plan.steps} steps, expected {steps}")
    if plan.calls < LEAST_CALLS or list(plan.called) != content.get("called"):
        raise ValueError("the steps without factors are not those that are called")
    if content.get("calls") != plan.calls:
        raise ValueError(
            f"a plan has calls {shortly(content.get('calls'))}, and calls {plan.calls} steps"
        )
    if plan.terms > MOST_TERMS:
        raise ValueError(f"a step has {plan.terms} factors, expected at most {MOST_TERMS}")
    for step, factors in enumerate(plan.factors):
        if len(factors) > plan.held[step]:
            raise ValueError(
                f"step {step} has {len(factors)} factors, with {plan.held[step]} calls before it"
            )
    for factor in itertools.chain.from_iterable(plan.factors):
        _within(factor, "factors", -MOST_FACTOR, MOST_FACTOR)
    for variance in plan.variances:
        _within(variance, "variances", -MOST_VARIANCE, MOST_VARIANCE)
    decibels = (
        a_number({name: content[name]}, name, 0.0)
        for name in ("expected_db", "held_out_db", "held_out_low_db")
    )
    return FittedPlan(plan, *decibels)


def _guidance(numbers: tuple[float, ...]) -> tuple[float, float]:
    if len(numbers) != 2 or not 0 <= numbers[0] <= numbers[1]:
        raise ValueError(
            f"guidance is {shortly(numbers)}, expected the least and the largest scale"
        )
    return numbers[0], numbers[1]


def _within(number: float, name: str, least: float, most: float) -> float:
    if not least <= number <= most:
        raise ValueError(f"{name} has {number:g} where {least:g} to {most:g} is expected")
    return number


def _list(content: dict[str, Any], name: str) -> list[Any]:
    value = content.get(name)
    if not isinstance(value, list):
        raise ValueError(f"{name} is no list")
    return value


def _numbers(content: dict[str, Any], name: str) -> tuple[float, ...]:
    return tuple(a_number({name: one}, name, 0.0) for one in _list(content, name))
