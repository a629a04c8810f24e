from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from model_helpers import tiny_dit, tiny_edt, tiny_pit
from numpy.testing import assert_allclose
from pass_helpers import (
    as_text,
    ask_conditioner,
    ask_pair,
    check_shapes,
    feeds_for,
    graph,
    network,
    noise,
    ops,
    traced,
    weight_matmuls,
)

from pitstop.export.graph_pass import apply_all, interface
from pitstop.export.passes import PASSES
from pitstop.export.split import NoSplit, split
from pitstop.graphs.graph_file import run_graph
from pitstop.graphs.weights import weight_bytes
from pitstop.models.checkpoint import build_model
from pitstop.models.pit import PccaConfig
from pitstop.models.presets import PRESETS
from pitstop.runtime.distance import relative_l2

CONFIG = tiny_pit(depth=2)
CONDITIONING = ("adaLN_modulation", "t_embedder", "y_embedder")


@pytest.mark.parametrize(
    "config", [CONFIG, tiny_dit(depth=2), tiny_edt()], ids=["pit", "dit", "edt"]
)
def test_conditioner_and_denoiser_together_answer_as_the_whole_graph(config: Any) -> None:
    model, feeds = traced(config), feeds_for(config)

    conditioner, denoiser = split(model)

    expected = run_graph(model, feeds)["prediction"]
    assert relative_l2(expected, ask_pair(conditioner, denoiser, feeds)) <= 1e-6


@pytest.mark.parametrize("batch", [1, 40])
def test_the_denoisers_batch_may_be_smaller_or_larger_than_the_conditioners(batch: int) -> None:
    config = tiny_pit(depth=1)
    model, feeds = traced(config, batch), feeds_for(config, batch)

    conditioner, denoiser = split(model)

    expected = run_graph(model, feeds)["prediction"]
    assert relative_l2(expected, ask_pair(conditioner, denoiser, feeds)) <= 1e-6


def test_the_denoiser_takes_latent_and_modulation_and_the_conditioner_the_rest() -> None:
    conditioner, denoiser = split(traced(CONFIG))

    rows = conditioner.graph.inputs[0].shape
    assert rows is not None
    assert interface(denoiser) == (
        "latent FLOAT [2,3,16,16], modulation FLOAT [2,14,32] -> prediction FLOAT [2,6,16,16]"
    )
    assert interface(conditioner) == (
        f"timestep FLOAT [{rows[0]}], label INT64 [{rows[0]}] -> modulation FLOAT [{rows[0]},14,32]"
    )


def test_the_shapes_in_both_graphs_are_true() -> None:
    for part in split(traced(CONFIG)):
        check_shapes(part)


@torch.inference_mode()
def test_the_modulation_holds_each_blocks_chunks_in_order_and_one_plus_the_scales() -> None:
    model, feeds = network(CONFIG), feeds_for(CONFIG)
    timestep, label = torch.from_numpy(feeds["timestep"]), torch.from_numpy(feeds["label"].copy())
    c = model.t_embedder(timestep) + model.y_embedder(label)
    chunks = []
    for block in model.blocks:
        shift, scale, gate, *mlp = block.adaLN_modulation(c).chunk(6, dim=1)  # type: ignore[operator, union-attr]
        chunks += [shift, 1 + scale, gate, mlp[0], 1 + mlp[1], mlp[2]]
    shift, scale = model.final_layer.adaLN_modulation(c).chunk(2, dim=1)
    chunks += [shift, 1 + scale]

    conditioner, _ = split(traced(CONFIG))

    found = ask_conditioner(conditioner, feeds)
    assert_allclose(found, torch.stack(chunks, dim=1).numpy(), rtol=1e-5, atol=1e-6)


def test_neither_silu_nor_a_modulation_linear_nor_one_plus_scale_is_left_in_the_denoiser() -> None:
    model = traced(CONFIG)

    conditioner, denoiser = split(model)

    assert not {"Sigmoid", "Gemm", "Gather", "Unsqueeze", "Cos"} & set(ops(denoiser))
    assert ops(model)["Add"] - ops(denoiser)["Add"] == 1 + 2 * CONFIG.depth + 1
    assert weight_matmuls(denoiser) == weight_matmuls(model)
    assert ops(conditioner)["Gemm"] == 3  # two of the timestep embedder, and one for all


def test_every_weight_is_in_one_of_the_two_graphs() -> None:
    conditioner, denoiser = split(traced(CONFIG))

    names = [name for part in (conditioner, denoiser) for name in part.graph.initializers]
    floats = {name for name in names if "adaLN" in name or "embedder" in name}
    assert floats & set(denoiser.graph.initializers) == {
        "x_embedder.proj.weight",
        "x_embedder.proj.bias",
    }
    assert "adaLN.weight" in conditioner.graph.initializers


@pytest.mark.parametrize("name", ["pit-s-2", "pit-b-2", "pit-l-2", "pit-xl-2", "dit-xl-2"])
def test_the_denoiser_of_a_real_size_holds_at_most_70_percent_of_the_weights(name: str) -> None:
    with torch.device("meta"):
        weights = build_model(PRESETS[name]).named_parameters()
    sizes = {key: weight.numel() for key, weight in weights}

    left = [size for key, size in sizes.items() if not any(part in key for part in CONDITIONING)]

    assert sum(left) <= 0.70 * sum(sizes.values())


@pytest.mark.parametrize("config", [tiny_pit, tiny_dit], ids=["pit", "dit"])
def test_the_denoiser_of_a_small_graph_holds_at_most_70_percent_of_the_bytes(config: Any) -> None:
    """As deep in channels as the embedders allow: they weigh little in a real model."""
    model = traced(config(depth=4, hidden_size=128))

    _, denoiser = split(model)

    assert weight_bytes(denoiser) <= 0.70 * weight_bytes(model)


def test_the_split_works_after_all_passes_and_on_the_traced_graph() -> None:
    feeds = feeds_for(CONFIG)
    folded, _ = apply_all(PASSES[:3], traced(CONFIG), feeds)

    before, after = (ask_conditioner(split(model)[0], feeds) for model in (traced(CONFIG), folded))

    assert_allclose(after, before)


def test_the_given_model_is_left_as_it_was() -> None:
    model = traced(CONFIG)
    before = as_text(model)

    split(model)

    assert as_text(model) == before


# Two tokens whose norm is modulated: shift and scale come from a linear of v = silu(c).
SHIFT_AND_SCALE = (
    "p, q = Split<axis=1, num_outputs=2>(l) u = Unsqueeze(p, axis) w = Unsqueeze(q, axis) "
)
TRUNK = "one_more = Add(w, one) m = Mul(latent, one_more) prediction = Add(m, u)"
SIGNATURE = "(float[2, 2, 3] latent, float[2, 4] timestep) => (float[2, 2, 3] prediction)"
WEIGHTS: dict[str, Any] = {
    "weight": noise(6, 4),
    "bias": noise(6, seed=1),
    "axis": [1],
    "one": 1.0,
    "more": noise(4, 4, seed=2),
    "sizes": [4, 2],
}
GEMM = "l = Gemm<transB=1>(timestep, weight, bias) "


def modulated(body: str, signature: str = SIGNATURE) -> ir.Model:
    words = body.replace(",", " ").replace(")", " ").replace("(", " ").split()
    fed = signature.split("=>")[0]
    used = {k: v for k, v in WEIGHTS.items() if k in words and f" {k}" not in fed}
    return graph(signature, body, **used)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("prediction = Mul(latent, latent)", "come from 0 vectors, not from one"),
        (
            GEMM
            + SHIFT_AND_SCALE
            + "o = MatMul(timestep, more) l2 = Gemm<transB=1>(o, weight, bias) "
            + "p2, q2 = Split<axis=1, num_outputs=2>(l2) u2 = Unsqueeze(p2, axis) "
            + "w2 = Unsqueeze(q2, axis) a = Add(u, u2) b = Add(w, w2) m = Mul(latent, a) "
            + "prediction = Add(m, b)",
            "come from 2 vectors, not from one",
        ),
        (
            GEMM.replace(", bias", "") + SHIFT_AND_SCALE + TRUNK,
            "the linear behind p has no constant weights",
        ),
        (
            GEMM
            + SHIFT_AND_SCALE.replace("u = Unsqueeze(p", "r = Tanh(p) u = Unsqueeze(r")
            + TRUNK,
            "p feeds something that is no modulation",
        ),
        (
            GEMM
            + SHIFT_AND_SCALE
            + "s = ReduceSum(timestep) "
            + TRUNK.replace("prediction", "n = Mul(m, s) prediction").replace("(m, u)", "(n, u)"),
            "the trunk reads timestep beside the modulations",
        ),
    ],
    ids=["no linear", "two vectors", "no bias", "no unsqueeze", "trunk reads it"],
)
def test_a_graph_that_cannot_be_split_says_why(body: str, why: str) -> None:
    model = modulated(body)

    with pytest.raises(NoSplit, match=why):
        split(model)


def test_chunks_of_several_widths_stand_one_behind_the_other() -> None:
    model = modulated(
        GEMM
        + "p, q = Split<axis=1>(l, sizes) u = Unsqueeze(p, axis) w = Unsqueeze(q, axis) "
        + "a = ReduceSum(u) b = Add(w, one) d = ReduceSum(b) m = Mul(latent, a) "
        + "prediction = Add(m, d)"
    )
    for name, width in (("u", 4), ("w", 2), ("b", 2)):
        value = next(out for node in model.graph for out in node.outputs if out.name == name)
        value.shape = ir.Shape((2, 1, width))
    feeds = {"latent": noise(2, 2, 3), "timestep": noise(2, 4, seed=3)}

    conditioner, denoiser = split(model)

    assert [list(value.shape or ()) for value in denoiser.graph.inputs] == [[2, 2, 3], [2, 1, 6]]
    made = feeds["timestep"] @ WEIGHTS["weight"].T + WEIGHTS["bias"] + [0, 0, 0, 0, 1, 1]
    modulation = made.astype(np.float32)[:, np.newaxis]
    found = run_graph(denoiser, {"latent": feeds["latent"], "modulation": modulation})
    expected = run_graph(model, feeds)["prediction"]
    assert relative_l2(expected, found["prediction"]) <= 1e-6
    check_shapes(conditioner)


def test_weights_that_are_inputs_too_cannot_be_split_off() -> None:
    model = modulated(
        GEMM + SHIFT_AND_SCALE + TRUNK, SIGNATURE.replace(") =>", ", float[6] bias) =>")
    )

    with pytest.raises(NoSplit, match="the linear behind p has no constant weights"):
        split(model)


def test_a_sum_with_another_number_than_one_stays_in_the_denoiser() -> None:
    model = modulated(GEMM + SHIFT_AND_SCALE + TRUNK)
    model.graph.initializers["one"].const_value = ir.tensor(np.float32(2.0), name="one")

    conditioner, denoiser = split(model)

    assert ops(denoiser)["Add"] == 2
    assert np.array_equal(
        conditioner.graph.initializers["adaLN.bias"].const_value.numpy(),  # type: ignore[union-attr]
        WEIGHTS["bias"],
    )


def test_a_rotating_model_splits_too() -> None:
    config = tiny_pit(depth=2, pcca=PccaConfig("rotate", (0.5,)))
    feeds = feeds_for(config)

    pair = split(traced(config))

    expected = run_graph(traced(config), feeds)["prediction"]
    assert relative_l2(expected, ask_pair(*pair, feeds)) <= 1e-6
