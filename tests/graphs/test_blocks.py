from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest
from low_helpers import calls_for, denoiser
from model_helpers import tiny_dit, tiny_edt, tiny_pit
from pass_helpers import graph, traced

from pitstop.export.lowering.lower import LOW, lower
from pitstop.export.trace import load_source
from pitstop.graphs.blocks import blocks_of, layer_name, moves_per_block, name_blocks, trunk
from pitstop.models.denoiser import DenoiserConfig
from pitstop.models.dit import DitConfig
from pitstop.models.pit import PswaConfig

NAMES = [
    "x_embedder",
    *(f"blocks.{index}.{half}" for index in range(2) for half in ("attn", "mlp")),
    "final_layer",
]
CONFIGS = {
    "defaults": tiny_pit(depth=2),
    "normalised and biased": tiny_pit(depth=2, pswa=PswaConfig(4, qk_norm=True, rel_pos_bias=True)),
    "dit": tiny_dit(depth=2),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("left_out", [(), ("split",)])
def test_blocks_go_by_the_names_of_their_modules(
    config: DenoiserConfig, left_out: tuple[str, ...]
) -> None:
    blocks = name_blocks(denoiser(config, left_out).graph)

    assert list(dict.fromkeys(blocks.values())) == NAMES


def without_modules(model: ir.Model) -> ir.Model:
    """The graph as it stands in a bundle from before nodes told their module."""
    old = model.clone()
    for node in old.graph:
        node.metadata_props.clear()
    return old


def by_output(blocks: Mapping[ir.Node, str]) -> dict[str, str]:
    return {str(node.outputs[0].name): block for node, block in blocks.items()}


@pytest.fixture(scope="module", params=["demo", "dit", "edt", *CONFIGS])
def named(request: pytest.FixtureRequest) -> ir.Model:
    """A denoiser whose nodes tell their modules: the demo's, a DiT-S of 4 blocks, others."""
    if request.param == "demo":
        return denoiser(load_source("fashion").config)
    others = {"dit": DitConfig(depth=4, input_size=(16, 16)), "edt": tiny_edt()}
    return denoiser({**others, **CONFIGS}[request.param])


def test_blocks_have_the_same_nodes_and_names_by_modules_and_by_weights(named: ir.Model) -> None:
    old = without_modules(named)

    assert by_output(name_blocks(named.graph)) == by_output(name_blocks(old.graph))
    assert moves_per_block(named.graph) == moves_per_block(old.graph)


def test_layers_have_the_same_names_by_modules_and_by_weights(named: ir.Model) -> None:
    layers, by_weights = (
        [layer_name(node) for node in model.graph if node.op_type in {"MatMul", "Conv"}]
        for model in (named, without_modules(named))
    )

    pairs = zip(layers, by_weights, strict=True)
    weighted = [(layer, by_weight) for layer, by_weight in pairs if "." in by_weight]
    assert weighted
    assert all(layer == by_weight for layer, by_weight in weighted)


@pytest.mark.parametrize("name", LOW)
def test_blocks_have_the_same_nodes_in_a_lower_precision_too(name: str) -> None:
    config = CONFIGS["normalised and biased"]
    low = lower(denoiser(config), LOW[name], calls_for(config)).model

    found = by_output(name_blocks(low.graph))

    assert found == by_output(name_blocks(without_modules(low).graph))
    assert by_output(name_blocks(denoiser(config).graph)).items() <= found.items()


NORMED = ["", "in", "a.0.norm", "a.0.mix.q_norm", "a.0", "a.1.norm1", "a.1.x.w", "a.1.norm2", "a.1"]


def test_a_part_with_one_norm_is_a_block_and_one_with_two_has_a_block_for_each() -> None:
    blocks = blocks_of([*NORMED, "a.1.y", "a.1", "", "up", "out.norm_out", "out.linear", ""])

    assert blocks == [
        *("in", "in"),
        *("a.0", "a.0", "a.0"),
        *("a.1.x", "a.1.x", "a.1.y", "a.1.y", "a.1.y", "a.1.y", "a.1.y", "a.1.y"),
        *("out", "out", "out"),
    ]


def test_a_norm_with_no_module_behind_it_gives_its_own_name() -> None:
    assert blocks_of(["b.0.norm1", "b.0.x", "b.0.norm2", "b.0"]) == [
        *("b.0.x", "b.0.x", "b.0.norm2", "b.0.norm2")
    ]


def test_the_nodes_of_one_norm_may_stand_apart() -> None:
    assert blocks_of(["in", "b.norm1", "", "b.norm1", "b.x"]) == ["in", *["b"] * 4]


def test_a_graph_as_it_was_traced_has_the_same_blocks() -> None:
    blocks = name_blocks(traced(CONFIGS["defaults"]).graph)

    assert list(dict.fromkeys(blocks.values())) == NAMES


def test_the_moves_of_a_block_are_counted_on_average() -> None:
    model = graph(
        "(float[2, 2] latent) => (float[2, 2] y)",
        """a = LayerNormalization(latent, scale) b = Transpose(a) c = MatMul(b, "blocks.0.attn.w")
        d = LayerNormalization(c, scale) e = Transpose(d) f = MatMul(e, "blocks.0.mlp.w")
        g = LayerNormalization(f, scale) h = Reshape(g, shape) i = MatMul(h, "blocks.1.attn.w")
        j = LayerNormalization(i, scale) k = Transpose(j) y = MatMul(k, "final_layer.w")""",
        scale=[1.0, 1.0],
        shape=np.array([2, 2]),
        **{
            f"{name}.w": np.eye(2, dtype=np.float32)
            for name in ("blocks.0.attn", "blocks.0.mlp", "blocks.1.attn", "final_layer")
        },
    )

    assert moves_per_block(model.graph) == {"Transpose": 1.0, "Reshape": 0.5}


def test_a_graph_without_blocks_has_no_moves_in_them() -> None:
    model = graph("(float[2, 3] latent) => (float[3, 2] y)", "y = Transpose(latent)")

    assert moves_per_block(model.graph) == {}


def test_what_sees_no_latent_is_in_no_block() -> None:
    model = denoiser(CONFIGS["defaults"], ("split",))

    outside = [node for node in model.graph if node not in name_blocks(model.graph)]

    assert {"Gemm", "Gather", "Sin"} <= {node.op_type for node in outside}
    assert not {"MatMul", "Softmax"} & {node.op_type for node in outside}


def test_the_trunk_is_what_sees_the_latent() -> None:
    model = graph(
        "(float[2] latent, float[2] label) => (float[2] y)",
        "a = Neg(label) b = Abs(latent) c = Neg(a) y = Add(b, c)",
    )

    assert [node.outputs[0].name for node in trunk(model.graph)] == ["b", "y"]


def test_a_block_without_named_weights_goes_by_its_first_value() -> None:
    model = graph(
        "(float[2] latent) => (float[2] y)", "a = Abs(latent) y = Add(a, w)", w=[1.0, 2.0]
    )

    assert set(name_blocks(model.graph).values()) == {"a"}
