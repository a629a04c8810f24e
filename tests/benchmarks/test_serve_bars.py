"""The arrivals and bars of benchmarks/serve.py."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parent.parent.parent / "benchmarks")
    import serve

    return serve


def test_half_of_the_requests_have_each_number_of_steps_at_the_rate_asked(
    serve: ModuleType,
) -> None:
    plan = serve.arrivals(200, 4.0)

    assert sorted(one.steps for one in plan) == [20] * 100 + [50] * 100
    assert len({one.seed for one in plan}) == 200
    assert np.all(np.diff([one.after for one in plan]) > 0)
    assert plan[-1].after == pytest.approx(200 / 4.0, rel=0.2)


@pytest.mark.parametrize(
    ("p50", "rate", "equal", "said"),
    [(0.7, 1.0, 200, []), (0.8, 1.0, 200, ["p50"]), (0.7, 0.9, 199, ["throughput", "images"])],
)
def test_each_bar_is_held_against_its_figure(
    serve: ModuleType, p50: float, rate: float, equal: int, said: list[str]
) -> None:
    latency: dict[str, Any] = {"step": {"all": {"p50": p50, "p95": 0.5}}}
    latency["request"] = {"all": {"p50": 1.0, "p95": 1.0}}
    found = {
        "latency_seconds": latency,
        "images_per_second_saturated": {"step": rate, "request": 1.0},
        "equal_images": equal,
        "requests": 200,
        "equal_to_generate": True,
    }
    missed = [line.split()[0] for line in serve.bars(found) if line.endswith("NOT MET")]
    assert missed == said
