"""benchmarks/engine_cost_tables.py: the figures as Markdown."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

ALL = "all of tensorrt10, tensorrt11, tensorrt-rtx"


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module."""
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    return importlib.import_module("engine_cost_tables")


def row(passes: str, precision: str, capability: str, kernels: int, **times: float) -> Any:
    cost = {
        "kernels": kernels,
        "moves": 3,
        "quantizations": 0,
        "matmuls": {"Int8": 2, "Half": 1},
        "activation_megabytes": 10.04,
        "constant_megabytes": 5.0,
    }
    case = {
        "preset": "pit-s-2",
        "passes": passes,
        "precision": precision,
        "capability": capability,
    }
    return {"case": case, "call": cost, "block": cost | {"kernels": 4}, "estimated_ms": times}


def test_capabilities_with_the_same_figures_share_a_line(shown: Any) -> None:
    rows = [row(ALL, "int8", "8.9", 50), row(ALL, "int8", "12.0", 51), row(ALL, "int8", "8.6", 50)]

    lines = shown.precisions(rows)

    assert [line.count("|") for line in lines] == 4 * [12]
    assert lines[2:] == [
        "| pit-s-2 | int8 | 50 | 3 | 0 | 4 | 10.0 | 10.0 | 5.0 | 1 in fp16, 2 in int8 | 8.6, 8.9 |",
        "| pit-s-2 | int8 | 51 | 3 | 0 | 4 | 10.0 | 10.0 | 5.0 | 1 in fp16, 2 in int8 | 12.0 |",
    ]


def test_passes_are_lines_and_presets_columns(shown: Any) -> None:
    rows = [row(ALL, "fp16", "8.9", 50), row("none but split", "fp16", "8.9", 60)]
    rows += [row(ALL, "int8", "8.9", 70), row(ALL, "fp16", "8.6", 80)]

    assert shown.passes(rows)[2:] == [
        f"| {ALL} | 50, 4, 10.0 |",
        "| none but split | 60, 4, 10.0 |",
    ]


def test_a_device_that_was_not_estimated_is_left_blank(shown: Any) -> None:
    rows = [
        row(ALL, "fp16", "8.9", 50, **{"NVIDIA GeForce RTX 4090": 0.5}),
        row(ALL, "fp16", "12.0", 50, **{"NVIDIA GeForce RTX 5090": 0.25}),
        row(ALL, "bf16", "12.0", 50, **{"NVIDIA GeForce RTX 5090": 0.256}),
    ]

    assert shown.times(rows) == [
        "| model | precision | RTX 4090 | RTX 5090 |",
        "| --- | --- | --- | --- |",
        "| pit-s-2 | fp16 | 0.50 | 0.25 |",
        "| pit-s-2 | bf16 |  | 0.26 |",
    ]
    assert "| pit-s-2 |" in shown.tables(rows)
