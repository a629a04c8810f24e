"""The baselines of benchmarks/: the papers' schedules, and what a cached network answers."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from model_helpers import filled, inputs, tiny_pit
from torch import Tensor

from pitstop.models.pit import Pit

STEPS = 6


@pytest.fixture
def schedules(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return imported(monkeypatch, "baselines.schedules")


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return imported(monkeypatch, "baselines.block_cache")


def imported(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parent.parent.parent / "benchmarks")
    return importlib.import_module(name)


def test_the_schedules_call_as_often_as_the_papers_say(schedules: Any) -> None:
    fora = [len(schedules.fora(50, interval)) for interval in (1, 2, 3, 4)]
    taylorseer = [len(schedules.taylorseer(50, interval)) for interval in (1, 2, 3, 4, 5)]

    assert fora == [50, 26, 18, 14]
    assert taylorseer == [50, 26, 18, 14, 11]
    assert schedules.fora(50, 3)[:3] == (0, 1, 4)  # 49, 48, 45 counted down
    assert schedules.fora(50, 3)[-1] == 49
    assert schedules.taylorseer(50, 5)[-1] == 46  # 3 counted down: the last three are cheap


def test_the_widest_interval_with_enough_calls_is_taken(schedules: Any) -> None:
    assert len(schedules.at_least(schedules.taylorseer, 50, 13)) == 14
    assert len(schedules.at_least(schedules.fora, 50, 10)) == 10
    assert schedules.at_least(schedules.fora, 50, 50) == tuple(range(50))


def answers(session: Any, runs: int = 1) -> list[np.ndarray]:
    """What a session says of a latent that changes from step to step."""
    latent, timestep, label = (each.numpy() for each in inputs(tiny_pit()))
    return [
        session.run({
            "latent": latent * np.float32(1 - 0.1 * (step % STEPS)),
            "timestep": (timestep + 500 - 10 * (step % STEPS)).astype(np.float32),
            "label": label,
        })["prediction"]
        for step in range(runs * STEPS)
    ]


@pytest.mark.parametrize("grain", ["blocks", "tokens"])
def test_with_every_step_called_it_is_the_model_itself(cache: Any, grain: str) -> None:
    model = filled(Pit(tiny_pit()))
    cached = cache.CachedSession(cache.fresh(model), STEPS, range(STEPS), 2, grain)

    for found, wanted in zip(answers(cached), answers(cache.TorchSession(model)), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("grain", ["blocks", "tokens"])
def test_a_cheap_step_asks_no_block(cache: Any, grain: str) -> None:
    model = cache.fresh(filled(Pit(tiny_pit())))
    asked = []
    attend = model.blocks[0].attn.forward
    model.blocks[0].attn.forward = lambda x: asked.append(x) or attend(x)

    answers(cache.CachedSession(model, STEPS, (0, 1, 4), 1, grain))

    assert len(asked) == 3


def test_a_second_run_is_as_the_first(cache: Any) -> None:
    cached = cache.CachedSession(
        cache.fresh(filled(Pit(tiny_pit()))), STEPS, (0, 1, 4), 2, "blocks"
    )

    found = answers(cached, runs=2)

    np.testing.assert_array_equal(found[:STEPS], found[STEPS:])


@pytest.mark.parametrize(("order", "wanted"), [(0, [0, 1, 1, 1, 4, 4]), (1, [0, 1, 2, 3, 4, 5])])
def test_order_0_holds_and_order_1_goes_on_along_a_line(
    cache: Any, order: int, wanted: list[float]
) -> None:
    assert extrapolated(cache, order, lambda step: step) == wanted


def test_order_2_is_taylors_series_of_backward_differences(cache: Any) -> None:
    # At steps 0, 1 and 4 a square has the differences 16, 5 and (5 - 1) / 3.
    found = extrapolated(cache, 2, lambda step: step**2)
    assert found[-1] == pytest.approx(16 + 5 + (5 - 1) / 3 / 2)


def extrapolated(cache: Any, order: int, function: Any) -> list[float]:
    """A function of the step alone, called at 0, 1 and 4."""
    clock = cache.Clock(frozenset({0, 1, 4}))
    kept = cache.Kept(lambda x: x, clock, order)
    found: list[Tensor] = []
    for step in range(STEPS):
        clock.step = step
        found.append(kept(torch.tensor(float(function(step)))))
        if step in clock.called:
            clock.before = step
    return [float(each) for each in found]
