from __future__ import annotations

import numpy as np
import pytest
from low_helpers import denoiser
from model_helpers import tiny_dit, tiny_pit
from pass_helpers import graph, traced

from pitstop.graphs.blocks import moves_per_block, name_blocks, trunk
from pitstop.models.denoiser import DenoiserConfig
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
def test_blocks_go_by_the_names_of_their_weights(
    config: DenoiserConfig, left_out: tuple[str, ...]
) -> None:
    blocks = name_blocks(denoiser(config, left_out).graph)

    assert list(dict.fromkeys(blocks.values())) == NAMES


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
