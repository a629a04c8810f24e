from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from bundle_helpers import one_line
from calibration_helpers import denoiser, sites_of
from model_helpers import tiny_dit, tiny_pit
from pass_helpers import graph, noise

from pitstop import CalibrationError
from pitstop.calibration.qdq.placement import Placement, Site, find_sites
from pitstop.export.optimize import STEP_NAMES
from pitstop.export.target import TARGETS
from pitstop.models.pit import BridgeConfig, PccaConfig, PswaConfig

ALL = PccaConfig("const", (1.0,))
TWO = tiny_pit(depth=2)
LINEARS = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
WITH_BRIDGE = ["attn.qkv", "attn.bridge.dw", "attn.proj", "mlp.fc1", "mlp.fc2"]
STAYS = {
    "x_embedder.proj": "the patch embedding stays as it is",
    "final_layer.linear": "the final layer stays as it is",
}


def of_blocks(depth: int, layers: list[str]) -> list[str]:
    return [f"blocks.{block}.{layer}" for block in range(depth) for layer in layers]


def square(seed: int) -> Any:
    return noise(16, 16, seed=seed)


CONFIGS = {
    "concat": (TWO, WITH_BRIDGE),
    "dit": (tiny_dit(depth=2), LINEARS),
    "add": (tiny_pit(depth=2, pcca=ALL, pswa=PswaConfig(4, merge="add_proj")), WITH_BRIDGE),
    "no bridge": (tiny_pit(depth=2, pcca=ALL), LINEARS),
    "rotate, projected": (
        tiny_pit(depth=2, pswa=PswaConfig(4, "projected"), pcca=PccaConfig("rotate", (0.5,))),
        WITH_BRIDGE,
    ),
    "a busy bridge": (
        tiny_pit(
            depth=2,
            pswa=PswaConfig(
                4,
                rel_pos_bias=True,
                qk_norm=True,
                bridge=BridgeConfig("pool_dw", norm="bn", act="silu", highpass=True),
            ),
        ),
        WITH_BRIDGE,
    ),
}
QUICK = ("concat", "dit")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in CONFIGS]
)
def test_a_block_is_its_four_linears_and_its_bridge(name: str) -> None:
    config, layers = CONFIGS[name]

    sites = find_sites(denoiser(config).graph, Placement())

    assert sorted(site.name for site in sites.found) == sorted(of_blocks(2, layers))
    assert sites.skipped == STAYS
    assert all(site.weight for site in sites.found)


def test_the_sites_stand_in_the_order_of_the_graph_each_before_what_reads_it() -> None:
    model = denoiser(TWO)
    nodes = {str(node.outputs[0].name): node for node in model.graph}
    order = list(nodes)

    sites = sites_of(model, attention=True)

    assert [order.index(site.node) for site in sites] == sorted(
        order.index(site.node) for site in sites
    )
    for site in sites:
        operands = nodes[site.node].inputs
        assert operands[site.operand].name == site.tensor  # type: ignore[union-attr]
        assert site.weight in {None, operands[1].name}  # type: ignore[union-attr]


def test_the_channels_of_a_tensor_and_of_its_weight_are_where_the_site_says() -> None:
    model = denoiser(TWO)
    shapes = {value.name: value.shape for node in model.graph for value in node.outputs}
    sites = {site.name: site for site in sites_of(model)}

    convolution = sites["blocks.0.attn.bridge.dw"]
    linear = sites["blocks.0.mlp.fc1"]

    assert (convolution.weight_axis, linear.weight_axis) == (0, 1)
    assert shapes[convolution.tensor][convolution.channel_axis] == 16  # type: ignore[index]
    assert shapes[linear.tensor][linear.channel_axis] == 32  # type: ignore[index]


def test_the_switches_leave_out_the_bridge_and_add_the_attention() -> None:
    model = denoiser(TWO)

    without = find_sites(model.graph, Placement(bridge=False))
    attending = [site.name for site in sites_of(model, attention=True)]

    assert sorted(site.name for site in without.found) == sorted(of_blocks(2, LINEARS))
    assert without.skipped["blocks.0.attn.bridge.dw"] == "the bridge is left out"
    added = [name for name in attending if not name.startswith("blocks.")]
    assert [name.rpartition(".")[2] for name in added] == 2 * ["q", "k", "softmax", "v"]


@pytest.mark.parametrize(
    ("target", "asked", "settled"),
    [
        ("portable", None, True),
        ("openvino", None, True),
        ("tensorrt10", None, False),
        ("tensorrt11", None, False),
        ("tensorrt-rtx", None, False),
        ("tensorrt-rtx", True, True),
        ("portable", False, False),
    ],
)
def test_the_bridge_is_quantized_where_it_pays_or_as_asked(
    target: str, asked: bool | None, settled: bool
) -> None:
    assert target in TARGETS

    assert Placement(bridge=asked).settled(target) == Placement(bridge=settled)


def test_an_attention_in_one_node_has_no_operands_to_quantize() -> None:
    model = denoiser(tiny_dit(depth=2), "onnxruntime")
    assert "MultiHeadAttention" in {node.op_type for node in model.graph}

    sites = [site.name for site in sites_of(model, attention=True)]

    assert sites == of_blocks(2, LINEARS)


@pytest.mark.parametrize(
    "left_out",
    [STEP_NAMES, pytest.param(("split",), marks=pytest.mark.slow)],
    ids=["all passes", "split"],
)
def test_without_the_split_nothing_of_the_conditioning_is_quantized(left_out: Any) -> None:
    model = denoiser(tiny_pit(depth=2), left_out=left_out)
    conditioning = [
        "t_embedder.mlp.0",
        "t_embedder.mlp.2",
        "blocks.0.adaLN_modulation.1",
        "blocks.1.adaLN_modulation.1",
        "final_layer.adaLN_modulation.1",
    ]

    sites = find_sites(model.graph, Placement(attention=True))

    assert sites.skipped == STAYS | dict.fromkeys(conditioning, "the conditioning stays as it is")
    sees_latent = reached_from(model, "latent")
    assert all(site.tensor in sees_latent for site in sites.found)


def reached_from(model: Any, name: str) -> set[str]:
    """The values that an input of a graph has a part in."""
    seen = {name}
    for node in model.graph:
        if seen & {value.name for value in node.inputs if value is not None}:
            seen |= {str(value.name) for value in node.outputs}
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("left_out", STEP_NAMES)
@pytest.mark.parametrize("target", ["portable", "onnxruntime"])
def test_no_name_stands_for_two_sites_whatever_pass_is_left_out(left_out: str, target: str) -> None:
    model = denoiser(tiny_pit(depth=2), target, (left_out,))

    names = [site.name for site in sites_of(model, attention=True)]

    assert len(set(names)) == len(names)


def test_layers_that_share_their_weights_are_told_apart() -> None:
    shared = graph(
        "(float[2, 16] x) => (float[2, 16] y)",
        'a = MatMul(x, "w.weight") b = MatMul(a, "w.weight") y = MatMul(b, last)',
        **{"w.weight": square(1), "last": square(2)},
    )

    assert [site.name for site in sites_of(shared)] == ["w at a", "w at b"]


def test_a_linear_with_a_short_side_stays_as_it_is() -> None:
    narrow = graph(
        "(float[2, 16] x) => (float[2, 16] y)",
        'a = MatMul(x, "down.weight") b = MatMul(a, "up.weight") y = MatMul(b, last)',
        **{"down.weight": noise(16, 15), "up.weight": noise(15, 16), "last": square(0)},
    )

    with pytest.raises(CalibrationError) as caught:
        find_sites(narrow.graph, Placement())

    assert one_line(caught.value) == (
        "The denoiser has no layer to quantize. Use its fp16 graph, or a larger model."
    )


def test_a_weight_that_may_be_fed_is_not_quantized() -> None:
    fed = graph(
        "(float[2, 16] x, float[16, 16] w) => (float[2, 16] y)",
        'a = MatMul(x, w) b = MatMul(a, "up.weight") y = MatMul(b, last)',
        **{"w": square(1), "up.weight": square(2), "last": square(0)},
    )

    assert [site.name for site in sites_of(fed)] == ["up"]


def residual(body: str) -> list[Site]:
    model = graph(
        "(float[2, 16] x) => (float[2, 16] y)",
        f"h = Relu(x) {body} y = MatMul(sum, last)",
        **{"w": square(1), "w2": square(2), "bias": noise(16), "last": square(3)},
    )
    return [site for site in sites_of(model) if site.weight is None]


@pytest.mark.parametrize(
    ("body", "operand"),
    [
        ("a = MatMul(h, w) sum = Add(a, h)", 1),
        ("a = MatMul(h, w) sum = Add(h, a)", 0),
        ("a = MatMul(h, w) b = Add(a, bias) sum = Add(b, h)", 1),
    ],
)
def test_the_other_operand_of_an_add_after_a_layer_is_quantized(body: str, operand: int) -> None:
    [site] = residual(body)

    assert site == Site("sum.residual", "h", "sum", operand)


@pytest.mark.parametrize(
    "body",
    [
        "a = MatMul(h, w) gated = Mul(a, bias) sum = Add(gated, h)",  # adaLN's gate
        "a = MatMul(h, w) cube = Mul(a, a) sum = Add(a, cube)",  # inside a tanh-GELU
        "a = MatMul(h, w) b = MatMul(h, w2) sum = Add(a, b)",  # neither is the residual
        "a = MatMul(h, w) sum = Add(a, bias)",
    ],
)
def test_no_other_add_is_a_residual(body: str) -> None:
    assert residual(body) == []


def test_a_real_graph_has_no_residual_site_for_a_gate_or_a_gelu_stands_between() -> None:
    for config in (TWO, tiny_dit(depth=2)):
        assert not [site for site in sites_of(denoiser(config)) if site.weight is None]


@pytest.mark.parametrize(
    ("body", "op_type"),
    [
        ("low, scale, zero = DynamicQuantizeLinear(x) y = Cast<to = 1>(low)", "DynamicQuantizeLi"),
        ("low = Cast<to = 3>(x) z = MatMulInteger(low, w) y = Cast<to = 1>(z)", "MatMulInteger"),
    ],
)
def test_a_graph_in_any_integer_form_is_refused(body: str, op_type: str) -> None:
    weight = np.ones((16, 16), np.int8)
    quantized = graph("(float[2, 16] x) => (float[2, 16] y)", body, w=weight)

    with pytest.raises(CalibrationError, match=f"has {op_type}.* nodes already"):
        find_sites(quantized.graph, Placement())


def test_the_matmuls_inside_a_fused_attention_are_told_where_they_are_asked_for() -> None:
    model = denoiser(tiny_dit(depth=2), target="onnxruntime")

    asked = find_sites(model.graph, Placement(attention=True)).skipped
    other = find_sites(model.graph, Placement()).skipped

    told = [why for name, why in asked.items() if name not in other]
    assert told == ["its matmuls are inside one MultiHeadAttention node"] * 2


def test_a_graph_that_is_quantized_already_is_refused() -> None:
    quantized = graph(
        "(float[2, 16] x) => (float[2, 16] y)",
        """q = QuantizeLinear(x, scale) a = DequantizeLinear(q, scale)
        b = MatMul(a, w) y = MatMul(b, last)""",
        scale=0.5,
        w=square(1),
        last=square(2),
    )

    with pytest.raises(CalibrationError) as caught:
        find_sites(quantized.graph, Placement())

    assert one_line(caught.value).startswith(
        "The denoiser's fp32 graph has QuantizeLinear nodes already. "
    )
