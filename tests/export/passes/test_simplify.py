from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from pass_helpers import as_text, graph, noise, ops

from pitstop.export.graph_pass import apply
from pitstop.export.passes import simplify as simplify_file
from pitstop.export.passes.simplify import SIMPLIFY

SIGNATURE = "(float[2, 3] x) => (float[2, 3] y)"
BODY = "s = Add(a, b) i = Identity(x) t = Add(i, s) y = Relu(t)"
WEIGHTS: dict[str, Any] = {"a": [1.0, 2.0, 3.0], "b": [0.3, 0.3, 0.3]}
FEEDS = {"x": noise(2, 3)}


def test_constants_are_folded() -> None:
    model = graph(SIGNATURE, BODY, **WEIGHTS)
    before = as_text(model)

    simplified, report = apply(SIMPLIFY, model, FEEDS)

    assert ops(simplified)["Add"] == 1
    assert report.skipped == {}
    assert "s" in report.rewritten
    assert as_text(model) == before


def test_without_onnxsim_the_clean_up_of_onnx_ir_runs_and_the_report_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "onnxsim", None)
    twice = graph(SIGNATURE, "s = Relu(x) t = Relu(x) y = Add(s, t)")

    simplified, report = apply(SIMPLIFY, twice, FEEDS)

    assert ops(simplified) == {"Relu": 1, "Add": 1}
    assert "onnxsim cannot be imported" in report.skipped["onnxsim"]


def test_a_graph_that_fits_no_message_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simplify_file, "ONNXSIM_LIMIT", 4)

    _, report = apply(SIMPLIFY, graph(SIGNATURE, BODY, **WEIGHTS), FEEDS)

    assert "do not fit" in report.skipped["onnxsim"]


def test_a_reshape_that_another_one_alone_reads_goes() -> None:
    model = graph(
        "(float[2, 3] x) => (float[6] y, float[3, 2] z)",
        "a = Reshape(x, one) y = Reshape(a, flat) b = Reshape(x, turned) "
        "c = Reshape(b, one) d = Reshape(c, kept) z = Reshape(d, turned)",
        one=np.array([1, 6]),
        flat=np.array([6]),
        turned=np.array([3, 2]),
        kept=np.array([0, 6]),
    )

    simplified, report = apply(SIMPLIFY, model, FEEDS)

    assert ops(simplified)["Reshape"] < ops(model)["Reshape"]
    assert "a" in report.rewritten


def test_a_reshape_that_somebody_else_reads_stays() -> None:
    model = graph(
        "(float[2, 3] x) => (float[6] y, float[1, 6] z)",
        "a = Reshape(x, one) y = Reshape(a, flat) z = Relu(a)",
        one=np.array([1, 6]),
        flat=np.array([6]),
    )

    simplified, _ = apply(SIMPLIFY, model, FEEDS)

    assert ops(simplified) == ops(model)
