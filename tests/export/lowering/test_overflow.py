from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from low_helpers import calls_for, denoiser
from model_helpers import tiny_pit
from pass_helpers import as_text, graph, noise

from pitstop.export.lowering.overflow import (
    largest_magnitudes,
    overflowing_blocks,
    overflowing_weights,
)
from pitstop.graphs.graph_file import run_graph

NORMED = """
    a = Mul(latent, s) n = LayerNormalization<axis = -1>(a, g) m = Mul(n, t) o = Neg(m)
    k = LayerNormalization<axis = -1>(o, g) y = Abs(k)
"""


def normed(**weights: object) -> ir.Model:
    """Two blocks, ``n`` and ``k``, behind an embedding ``a``."""
    ones = [1.0] * 3
    constants = {"s": ones, "t": ones, "g": ones, **weights}
    return graph("(float[2, 3] latent) => (float[2, 3] y)", NORMED, **constants)


def blocks(model: ir.Model, islands: str = "", largest: float = 100.0) -> dict[str, str]:
    kept = {node for node in model.graph if node.outputs[0].name in islands.split()}
    sizes = largest_magnitudes(model, [{"latent": noise(2, 3)}])
    return overflowing_blocks(model.graph, kept, sizes, largest)


def test_the_largest_magnitude_is_over_all_calls_and_signs() -> None:
    model = graph("(float[2, 3] latent) => (float[2, 3] y)", "a = Neg(latent) y = Exp(a)")
    calls = [{"latent": scale * noise(2, 3, seed=scale)} for scale in (1, 3, 2)]

    found = largest_magnitudes(model, calls)

    fed = np.stack([call["latent"] for call in calls])
    assert found == {"a": np.abs(fed).max(), "y": pytest.approx(np.exp(-fed).max(), rel=1e-6)}


def test_a_whole_denoiser_is_measured_and_left_as_it_was() -> None:
    config = tiny_pit(depth=2)
    model, calls = denoiser(config), calls_for(config)
    before = as_text(model)

    found = largest_magnitudes(model, calls)

    made = {value.name for node in model.graph for value in node.outputs}
    assert found.keys() == made
    answer = run_graph(model, calls[0])["prediction"]
    assert found["prediction"] == pytest.approx(np.abs(answer).max(), rel=1e-5)
    assert as_text(model) == before


def test_a_value_that_is_not_a_number_is_the_largest() -> None:
    model = graph("(float[2, 3] latent) => (float[2, 3] y)", "y = Log(latent)")

    found = largest_magnitudes(model, [{"latent": -np.ones((2, 3), np.float32)}] * 2)

    assert np.isnan(found["y"])
    assert list(overflowing_blocks(model.graph, (), found, 100.0)) == ["y"]


def test_a_block_that_makes_or_takes_a_large_value_is_found_with_it() -> None:
    found = blocks(normed(t=[90.0] * 3))

    assert found.keys() == {"n", "k"}
    assert found["n"].startswith("m reaches 1.")
    assert found["k"].startswith("o reaches 1.")


def test_half_of_the_range_is_the_margin() -> None:
    model = normed(s=[60.0] * 3)
    peak = 60 * float(np.abs(noise(2, 3)).max())

    assert blocks(model, largest=2.01 * peak) == {}
    assert blocks(model, largest=1.99 * peak).keys() == {"a", "n"}


def test_values_that_islands_keep_among_themselves_may_be_large() -> None:
    assert blocks(normed(s=[1e6] * 3), islands="a n") == {}


def test_a_constant_that_would_be_infinite_is_named() -> None:
    model = normed(t=[1.0, -7e4, 1.0])

    found = overflowing_weights(model.graph, 65504.0)

    assert {node.outputs[0].name: why for node, why in found.items()} == {"m": "t reaches 7.0e+04"}
    assert overflowing_weights(normed(t=[65504.0] * 3).graph, 65504.0) == {}
