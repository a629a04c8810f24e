"""Smoothing must be seen in the sizes of channels and nowhere in what the graph answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from calibration_helpers import denoiser, feeds_of
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from model_helpers import pit_configs, tiny_dit, tiny_edt, tiny_pit
from pass_helpers import Array, as_text, weights_of

from pitstop.calibration.qdq.channels import find_scalable
from pitstop.calibration.qdq.smoothing import MOST, Factors, apply_smoothing, choose_factors, smooth
from pitstop.graphs.graph_file import run_graph, with_outputs
from pitstop.models.amm import AmmConfig
from pitstop.models.denoiser import DenoiserConfig
from pitstop.models.pit import PccaConfig, PitConfig, PswaConfig
from pitstop.runtime.distance import relative_l2

TOLERANCE = 1e-5
TWO = tiny_pit(depth=2)
LOUD = 5  # a channel


def amax_by_channel(
    model: ir.Model, feeds: dict[str, Array], names: Sequence[str] = ()
) -> dict[str, Array]:
    """The largest absolute value of each channel of these tensors, or of all to be scaled."""
    names = names or [found.tensor for found in find_scalable(model.graph)]
    seen = run_graph(with_outputs(model, names), feeds)
    return {name: np.abs(array).max(axis=(0, 1)) for name, array in seen.items()}


def smoothed(model: ir.Model, factors: Factors) -> ir.Model:
    return apply_smoothing(model, smooth(model.graph, factors))


def random_factors(model: ir.Model, seed: int) -> Factors:
    """Any divisors at all, 1 only where nothing reads a channel or nothing makes it."""
    rng = np.random.default_rng(seed)
    factors = {}
    for name, sizes in amax_by_channel(model, feeds_of(model)).items():
        chosen = choose_factors(
            model.graph, {name: np.full_like(sizes, 3.0) ** rng.normal(size=len(sizes))}
        )
        drawn = np.exp(rng.uniform(-2, 2, len(sizes)))
        factors[name] = tuple(np.where(np.array(chosen[name]) == 1.0, 1.0, drawn).tolist())
    return factors


def check(config: DenoiserConfig, target: str = "portable", seed: int = 0) -> None:
    """See that neither the chosen divisors nor any others change what a denoiser answers."""
    model = denoiser(config, target)
    feeds = feeds_of(model)
    expected = run_graph(model, feeds)["prediction"]
    chosen = choose_factors(model.graph, amax_by_channel(model, feeds))
    for factors in (chosen, random_factors(model, seed)):
        changed = smoothed(model, factors)
        found = run_graph(changed, feeds)["prediction"]
        assert as_text(changed) != as_text(model)
        assert relative_l2(expected, found) <= TOLERANCE


def draws(count: int) -> Any:
    """Hypothesis without shrinking and without memory: each draw costs a trace."""
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


# What the passes fold differs by target.
TARGETS = st.sampled_from(["portable", "onnxruntime"])
CORNERS = {
    "concat": (TWO, "portable"),
    "dit": (tiny_dit(depth=2), "portable"),
    "chunks of several widths": (tiny_edt(amm=AmmConfig((1,))), "portable"),
    "attention in one node": (tiny_dit(depth=2), "onnxruntime"),
}
SLOW_CORNERS = {
    "row-major tokens": (TWO, "onnxruntime"),
    "add": (
        tiny_pit(depth=2, pcca=PccaConfig("const", (1.0,)), pswa=PswaConfig(4, merge="add_proj")),
        "portable",
    ),
    "rotate": (tiny_pit(depth=3, pcca=PccaConfig("rotate", (0.5,))), "portable"),
    "projected": (tiny_pit(depth=2, pswa=PswaConfig(4, "projected")), "portable"),
}


@pytest.mark.parametrize("name", CORNERS)
def test_a_smoothed_denoiser_answers_as_before(name: str) -> None:
    check(*CORNERS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_CORNERS)
def test_a_smoothed_denoiser_answers_as_before_in_the_corners(name: str) -> None:
    check(*SLOW_CORNERS[name])


@given(config=pit_configs(), target=TARGETS, seed=st.integers(0, 99))
@draws(2)
def test_smoothing_is_exact_for_some_configs(config: PitConfig, target: str, seed: int) -> None:
    check(config, target, seed)


@pytest.mark.slow
@given(config=pit_configs(), target=TARGETS, seed=st.integers(0, 99))
@draws(60)
def test_smoothing_is_exact_for_any_config(config: PitConfig, target: str, seed: int) -> None:
    check(config, target, seed)


def test_a_loud_channel_is_flattened_and_the_others_keep_their_size() -> None:
    model = denoiser(TWO)
    feeds = feeds_of(model)
    feeds["modulation"][:, 4, LOUD] *= 40.0  # 1 + scale before the first MLP
    name = find_scalable(model.graph)[2].tensor
    before = amax_by_channel(model, feeds)

    changed = smoothed(model, choose_factors(model.graph, before))

    after = amax_by_channel(changed, feeds, [name])
    assert loudness(before[name]) > 20
    assert loudness(after[name]) < 8
    assert np.argmax(after[name]) == LOUD  # half of it, in decibel, goes into the weight
    assert np.median(after[name]) == pytest.approx(np.median(before[name]), rel=0.5)


def test_the_bridge_takes_the_whole_of_its_channels_sizes() -> None:
    model = denoiser(TWO)
    before = amax_by_channel(model, feeds_of(model))
    first = find_scalable(model.graph)[0]

    [divisors] = choose_factors(model.graph, {first.tensor: before[first.tensor]}).values()

    bridge = first.readers[1]
    left = before[first.tensor][bridge.start : bridge.stop] / divisors[bridge.start : bridge.stop]
    np.testing.assert_allclose(left, left[0], rtol=1e-5)


def loudness(sizes: Array) -> float:
    return float(sizes.max() / np.median(sizes))


def test_each_readers_divisors_have_a_geometric_mean_of_one() -> None:
    model = denoiser(TWO)
    factors = choose_factors(model.graph, amax_by_channel(model, feeds_of(model)))

    for found in find_scalable(model.graph):
        for span in found.readers:
            part = np.array(factors[found.tensor][span.start : span.stop])
            assert np.log(part).mean() == pytest.approx(0.0, abs=1e-5)
            assert part.max() > part.min()


def test_a_silent_channel_keeps_its_size_and_no_divisor_is_extreme() -> None:
    model = denoiser(TWO)
    sizes = amax_by_channel(model, feeds_of(model))
    name = find_scalable(model.graph)[2].tensor
    sizes[name][:4] = [0.0, 1e-20, 1e20, 0.0]

    divisors = np.array(choose_factors(model.graph, sizes)[name])

    assert divisors[[0, 3]].tolist() == [1.0, 1.0]
    assert divisors[[1, 2]] == pytest.approx([1 / MOST, MOST])
    assert choose_factors(model.graph, {name: np.zeros(32, np.float32)})[name] == (1.0,) * 32


def test_only_tensors_whose_sizes_are_known_get_divisors_and_only_those_change() -> None:
    model = denoiser(TWO)
    first, _, mlp = find_scalable(model.graph)[:3]
    sizes = amax_by_channel(model, feeds_of(model))

    factors = choose_factors(model.graph, {mlp.tensor: sizes[mlp.tensor]})
    changes = smooth(model.graph, factors)

    assert set(factors) == {mlp.tensor}
    assert set(changes.weights) == {mlp.readers[0].weight}
    assert changes.modulation is not None
    assert (changes.modulation[0, list(first.chunks)] == 1.0).all()
    np.testing.assert_allclose(
        changes.modulation[0, 3] * factors[mlp.tensor], np.ones(32), rtol=1e-6
    )


def test_what_needs_no_modulation_costs_no_node() -> None:
    model = denoiser(TWO)
    into_projection = find_scalable(model.graph)[1].tensor
    sizes = amax_by_channel(model, feeds_of(model))

    changed = smoothed(
        model, choose_factors(model.graph, {into_projection: sizes[into_projection]})
    )

    assert len(changed.graph) == len(model.graph)
    assert as_text(changed) != as_text(model)


def test_without_divisors_nothing_changes() -> None:
    model = denoiser(TWO)

    assert as_text(smoothed(model, {})) == as_text(model)


def test_the_given_model_is_left_as_it_was() -> None:
    model = denoiser(TWO)
    before = as_text(model)

    smoothed(model, random_factors(model, seed=1))

    assert as_text(model) == before


def test_a_graph_of_low_precision_keeps_its_types() -> None:
    model = denoiser(TWO)
    changes = smooth(model.graph, random_factors(model, seed=1))
    low = model.clone()
    for name in changes.weights:
        value = low.graph.initializers[name]
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy().astype(np.float16), name=name)
        value.type = ir.TensorType(ir.DataType.FLOAT16)

    changed = apply_smoothing(low, changes)

    for name, array in changes.weights.items():
        assert changed.graph.initializers[name].dtype == ir.DataType.FLOAT16
        np.testing.assert_allclose(weights_of(changed)[name], array, rtol=1e-3, atol=1e-7)
