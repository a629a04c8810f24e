from __future__ import annotations

from typing import Any

import onnx_ir as ir
import pytest
from calibration_helpers import denoiser
from model_helpers import tiny_dit, tiny_pit
from pass_helpers import graph, noise

from pitstop.calibration.qdq.channels import Scalable, Span, find_scalable
from pitstop.models.pit import PccaConfig, PswaConfig

WIDTH, ATTENDED = 32, 16  # channels of a token of `tiny_pit`, and of its first block's attention


def found_in(model: ir.Model) -> list[Scalable]:
    return find_scalable(model.graph)


def layers(model: ir.Model) -> dict[str, list[str]]:
    """The names of the constants of each linear and convolution, by its output's shape."""
    return {
        str(node.outputs[0].name): [str(value.name) for value in node.inputs[1:] if value]
        for node in model.graph
        if node.op_type in {"MatMul", "Conv"}
    }


def test_a_block_with_a_bridge_has_three_places_and_the_final_layer_one() -> None:
    model = denoiser(tiny_pit(depth=2))

    found = found_in(model)

    assert [one.chunks for one in found] == [
        (0, 1), (), (3, 4),
        (6, 7), (), (9, 10),
        (12, 13),
    ]  # fmt: skip


def test_what_is_modulated_is_read_by_the_linear_and_the_bridge_each_its_part() -> None:
    before_attention, before_mlp = found_in(denoiser(tiny_pit(depth=2)))[0:3:2]

    qkv, bridge = before_attention.readers
    assert (qkv.axis, qkv.first, qkv.start, qkv.stop) == (0, 0, 0, ATTENDED)
    assert (bridge.axis, bridge.first, bridge.start, bridge.stop) == (0, 0, ATTENDED, WIDTH)
    assert bridge.weight == "blocks.0.attn.bridge.dw.weight"
    assert [(span.start, span.stop) for span in before_mlp.readers] == [(0, WIDTH)]
    assert before_attention.makers == before_mlp.makers == ()


def test_the_projections_input_is_made_by_v_and_by_the_bridge() -> None:
    before_attention, into_projection = found_in(denoiser(tiny_pit(depth=2)))[:2]

    weight, bias, bridge = into_projection.makers
    v = 2 * ATTENDED  # after q and k
    assert weight == Span(before_attention.readers[0].weight, 1, v, 0, ATTENDED)
    assert (bias.axis, bias.first, bias.start, bias.stop) == (0, v, 0, ATTENDED)
    assert bridge == Span("blocks.0.attn.bridge.dw.weight", 0, 0, ATTENDED, WIDTH)
    assert [(span.start, span.stop) for span in into_projection.readers] == [(0, WIDTH)]


def test_without_a_concat_all_of_the_projections_input_is_v() -> None:
    into_projection = found_in(denoiser(tiny_dit(depth=2)))[1]

    assert [(span.axis, span.first, span.start, span.stop) for span in into_projection.makers] == [
        (1, 2 * WIDTH, 0, WIDTH),
        (0, 2 * WIDTH, 0, WIDTH),
    ]


def test_v_that_a_bridge_reads_too_is_left_alone() -> None:
    added = tiny_pit(
        depth=2, pcca=PccaConfig("const", (1.0,)), pswa=PswaConfig(4, merge="add_proj")
    )

    into_projection = found_in(denoiser(added))[1]

    assert [span.weight for span in into_projection.makers] == ["blocks.0.attn.bridge.dw.weight"]


def modulated(body: str, **weights: Any) -> list[Scalable]:
    """What is found behind a modulation of 4 tokens with 8 channels."""
    constants = {"w": noise(8, 8), "w2": noise(8, 8, seed=1), **weights}
    model = graph(
        "(float[2, 4, 8] x, float[2, 3, 8] modulation) => (float[2, 4, 8] y)",
        f"""shift, scale, gate = Split<axis = 1, num_outputs = 3>(modulation)
        {body}""",
        **constants,
    )
    return found_in(model)


PRODUCT = "scaled = Mul(x, scale) moved = Add(scaled, shift)"


def test_the_modulation_may_stand_on_either_side() -> None:
    [found] = modulated("scaled = Mul(scale, x) moved = Add(shift, scaled) y = MatMul(moved, w)")

    assert found == Scalable("moved", (0, 1), (), (Span("w", 0, 0, 0, 8),))


@pytest.mark.parametrize(
    "body",
    [
        f"{PRODUCT} a = MatMul(moved, w) y = Add(a, moved)",  # a residual reads it too
        f"{PRODUCT} a = MatMul(moved, w) b = MatMul(moved, w2) y = Add(a, b)",
        f"{PRODUCT} a = MatMul(moved, w) b = MatMul(a, w) y = Add(a, b)",  # the weight is shared
        f"{PRODUCT} a = MatMul(moved, w) y = Mul(a, shift)",  # the chunk is read again
        f"{PRODUCT} a = MatMul(moved, w) y = Mul(a, scaled)",
        f"{PRODUCT} y = Relu(moved)",
        "moved = Add(x, shift) y = MatMul(moved, w)",
        "scaled = Mul(x, scale) y = MatMul(scaled, w)",
    ],
)
def test_what_another_node_reads_too_cannot_be_divided(body: str) -> None:
    assert modulated(body) == []


def test_the_part_that_goes_elsewhere_has_no_reader() -> None:
    [found] = modulated(
        f"""{PRODUCT} left, right = Split<axis = 2, num_outputs = 2>(moved)
        a = MatMul(left, half) b = Relu(right) y = Concat<axis = 2>(a, b)""",
        half=noise(4, 4),
    )

    assert found.readers == (Span("half", 0, 0, 0, 4),)


def test_a_convolution_that_mixes_channels_is_no_reader() -> None:
    behind = f"""{PRODUCT} t = Transpose<perm = [0, 2, 1]>(moved) c = Conv<group = %s>(t, kernel)
    y = Transpose<perm = [0, 2, 1]>(c)"""

    assert modulated(behind % 1, kernel=noise(8, 8, 1)) == []
    [found] = modulated(behind % 8, kernel=noise(8, 1, 1))
    assert found.readers == (Span("kernel", 0, 0, 0, 8),)


def test_a_weight_that_may_be_fed_is_no_reader() -> None:
    model = graph(
        "(float[2, 4, 8] x, float[2, 2, 8] modulation, float[8, 8] w) => (float[2, 4, 8] y)",
        "shift, scale = Split<axis = 1, num_outputs = 2>(modulation) "
        f"{PRODUCT} y = MatMul(moved, w)",
        w=noise(8, 8),
    )

    assert found_in(model) == []
