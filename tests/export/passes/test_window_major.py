from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from model_helpers import tiny_pit
from numpy.testing import assert_array_equal
from pass_helpers import as_text, feeds_for, graph, noise, ops, traced, transposes, weights_of

from pitstop.export.graph_pass import apply
from pitstop.export.passes.window_major import (
    PARTITION,
    REVERSE,
    UNPATCHIFY,
    WINDOW_MAJOR,
    Layout,
    layout_of,
)
from pitstop.graphs.weights import dims
from pitstop.models.pit import BridgeConfig, PccaConfig, PswaConfig

CUT = "[5, 0, 1, 3, 6, 2, 4, 7]"
# One window attention's partition, as traced, of 2 x 2 windows of 2 x 2 tokens.
ATTENTION = f"c = Reshape(x, cut) p = Transpose<perm={CUT}>(c) y = Reshape(p, joined) "
CONFIG = tiny_pit(depth=2)


@pytest.mark.parametrize(
    ("layout", "order"),
    [
        (Layout(1, 2, 2, 2), [0, 1, 4, 5, 2, 3, 6, 7]),  # 2 x 4 tokens, two windows of 2 x 2
        (Layout(2, 2, 2, 1), [0, 2, 1, 3, 4, 6, 5, 7]),  # 4 x 2 tokens, four windows of 2 x 1
        (Layout(1, 2, 1, 3), [0, 1, 2, 3, 4, 5]),  # one window
        (Layout(3, 1, 2, 1), [0, 1, 2, 3, 4, 5]),  # windows of one token
    ],
)
def test_the_order_lists_the_tokens_window_by_window(layout: Layout, order: list[int]) -> None:
    assert layout.order().tolist() == order


def test_a_layout_knows_its_grid_and_whether_it_is_one_window() -> None:
    layout = Layout(rows=3, down=4, columns=2, right=8)

    assert layout.grid == (12, 16)
    assert layout.tokens == 192
    assert layout.windows == (3, 2, 4, 8)
    assert not layout.is_whole_grid
    assert Layout(1, 4, 1, 8).is_whole_grid


def partition(cut: list[int], joined: list[int]) -> ir.Model:
    tokens = int(np.prod(cut[1:5]))
    shape = ", ".join(map(str, joined))
    signature = f"(float[1, {tokens}, {3 * cut[6] * cut[7]}] x) => (float[{shape}] y)"
    return graph(signature, ATTENTION, cut=cut, joined=joined)


def test_the_layout_is_read_from_the_partition() -> None:
    model = partition([1, 2, 2, 3, 4, 3, 2, 2], [3, 6, 2, 8, 2])

    assert layout_of(model.graph[1]) == Layout(rows=2, down=2, columns=3, right=4)


def test_no_block_of_a_traced_model_cuts_or_joins_windows_any_more() -> None:
    model = traced(CONFIG)

    windowed, report = apply(WINDOW_MAJOR, model, feeds_for(CONFIG))

    assert {PARTITION, REVERSE} <= set(transposes(model))
    assert not {PARTITION, REVERSE} & set(transposes(windowed))
    assert [len(perm) for perm in transposes(windowed)].count(8) == 1  # un-patchify
    assert report.skipped == {}


def test_window_order_is_exact_to_the_bit() -> None:
    _, report = apply(WINDOW_MAJOR, traced(CONFIG), feeds_for(CONFIG))

    assert report.relative_l2 == 0.0
    # The edges, and for each block its convolution, its partition and its reverse.
    assert len(report.rewritten) == 2 + 3 * CONFIG.depth


def test_the_positions_are_put_into_window_order() -> None:
    model = traced(CONFIG)

    windowed, _ = apply(WINDOW_MAJOR, model, feeds_for(CONFIG))

    before, after = weights_of(model)["pos_embed"], weights_of(windowed)["pos_embed_windows"]
    order = Layout(2, 4, 2, 4).order()
    assert order[:9].tolist() == [0, 1, 2, 3, 8, 9, 10, 11, 16]
    assert_array_equal(np.array(after)[0], np.array(before)[0][order])
    assert "pos_embed" not in weights_of(windowed)


@pytest.mark.parametrize("kind", ["dw", "pool_dw"])
def test_a_bridge_that_was_not_folded_regathers_the_grid_once(kind: str) -> None:
    bridge = BridgeConfig(kind, 3, norm="bn", act="gelu_tanh", highpass=True)  # type: ignore[arg-type]
    config = tiny_pit(depth=1, pswa=PswaConfig(4, bridge=bridge))

    windowed, report = apply(WINDOW_MAJOR, traced(config), feeds_for(config))

    assert ops(windowed)["AveragePool"] == 1
    assert [len(dims(site.outputs[0])) for site in windowed.graph if site.op_type == "Sub"] == [4]
    assert len(report.rewritten) == 2 + 3


@pytest.mark.parametrize("grid", [(8, 8), (8, 16), (16, 16)])
def test_the_position_bias_over_the_whole_grid_is_permuted_wherever_it_is_kept(
    grid: tuple[int, int],
) -> None:
    """The exporter computes a small one, and leaves a large one as a lookup in a table."""
    config = tiny_pit(
        input_size=grid,
        patch_size=1,
        depth=3,
        global_layers=(0, 2),
        pswa=PswaConfig(4, rel_pos_bias=True),
    )

    windowed, report = apply(WINDOW_MAJOR, traced(config), feeds_for(config))

    moved = [name for name in windowed.graph.initializers if "position_bias" in name]
    assert report.relative_l2 <= WINDOW_MAJOR.tolerance
    assert report.skipped == {}
    assert moved


def test_where_the_window_is_the_grid_the_edges_stay() -> None:
    config = tiny_pit(depth=1, pswa=PswaConfig(8), pcca=PccaConfig("const", (0.5,)))
    model = traced(config)

    windowed, report = apply(WINDOW_MAJOR, model, feeds_for(config))

    assert len(report.rewritten) == 2  # the partition and the reverse of a single window
    assert UNPATCHIFY in transposes(windowed)
    assert weights_of(windowed)["pos_embed"] == weights_of(model)["pos_embed"]


def test_windows_of_two_sizes_stay_and_the_report_says_why() -> None:
    model = graph(
        "(float[1, 16, 12] x) => (float[3, 4, 2, 4, 2] y, float[3, 2, 2, 8, 2] z)",
        f"{ATTENTION} d = Reshape(x, other) q = Transpose<perm={CUT}>(d) z = Reshape(q, tall)",
        cut=[1, 2, 2, 2, 2, 3, 2, 2],
        joined=[3, 4, 2, 4, 2],
        other=[1, 1, 4, 2, 2, 3, 2, 2],
        tall=[3, 2, 2, 8, 2],
    )

    windowed, report = apply(WINDOW_MAJOR, model, {"x": noise(1, 16, 12)})

    assert as_text(windowed) == as_text(model)
    assert report.rewritten == ()
    assert report.skipped == dict.fromkeys(
        ("p", "q"), "its windows are not of one size in all blocks"
    )


def test_a_partition_without_a_patch_embedding_stays_and_the_report_says_why() -> None:
    model = partition([1, 2, 2, 2, 2, 3, 2, 2], [3, 4, 2, 4, 2])

    windowed, report = apply(WINDOW_MAJOR, model, {"x": noise(1, 16, 12)})

    assert as_text(windowed) == as_text(model)
    assert report.skipped == {"p": "no patch embedding with fixed positions begins the graph"}


def is_transpose(node: ir.Node, perm: tuple[int, ...]) -> bool:
    return node.op_type == "Transpose" and tuple(node.attributes["perm"].as_ints()) == perm


def test_a_graph_that_ends_in_no_image_stays_and_the_report_says_why() -> None:
    """The same trunk, but its un-patchify counts rows and columns the other way round."""
    config = tiny_pit(depth=1, input_size=(8, 16))
    model = traced(config).clone()
    end = next(node for node in model.graph if is_transpose(node, UNPATCHIFY))
    end.attributes["perm"] = ir.AttrInt64s("perm", (0, 5, 3, 1, 4, 2))
    for value in (end.outputs[0], model.graph.outputs[0]):
        value.shape = None

    sites = WINDOW_MAJOR.edit(model.graph)

    assert sites.rewritten == []
    assert set(sites.skipped.values()) == {
        "the graph does not end in one un-patchify of the same grid"
    }


def test_a_position_bias_that_is_no_constant_keeps_the_windows_as_they_are() -> None:
    config = tiny_pit(depth=2, global_layers=(0,), pswa=PswaConfig(4, rel_pos_bias=True))
    model = traced(config).clone()
    bias = next(value for value in model.graph.initializers.values() if dims(value)[1:] == (64, 64))
    [(user, operand)] = bias.uses()
    negated = ir.node("Neg", [bias])
    negated.outputs[0].shape, negated.outputs[0].type = bias.shape, bias.type
    user.replace_input_with(operand, negated.outputs[0])
    model.graph.insert_before(model.graph[0], negated)

    windowed, report = apply(WINDOW_MAJOR, model, feeds_for(config))

    assert ops(windowed) == ops(model)
    assert set(report.skipped.values()) == {"a position bias over the whole grid is no constant"}


def test_the_given_model_is_left_as_it_was() -> None:
    model = traced(CONFIG)
    before = as_text(model)

    apply(WINDOW_MAJOR, model, feeds_for(CONFIG))

    assert as_text(model) == before


def test_a_second_time_there_is_nothing_left_to_move() -> None:
    config = replace(CONFIG, global_layers=(1,))
    windowed, _ = apply(WINDOW_MAJOR, traced(config), feeds_for(config))

    again, report = apply(WINDOW_MAJOR, windowed, feeds_for(config))

    assert report.rewritten == ()
    assert as_text(again) == as_text(windowed)
