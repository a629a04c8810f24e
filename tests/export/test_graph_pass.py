from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from pass_helpers import as_text, graph, noise, ops

from pitstop.export.graph_pass import GraphPass, PassBroken, Sites, apply, apply_all, interface
from pitstop.graphs.weights import add_constant, constant

WEIGHT = noise(3, 2, seed=1)
X = {"x": noise(4, 3)}


def linear() -> ir.Model:
    return graph("(float[4, 3] x) => (float[4, 2] y)", "m = MatMul(x, w) y = Tanh(m)", w=WEIGHT)


def a_pass(edit: Callable[[ir.Graph], object], tolerance: float = 1e-6) -> GraphPass:
    """A pass called ``trial`` that edits and names no site."""

    def run(graph: ir.Graph) -> Sites:
        edit(graph)
        return Sites()

    return GraphPass("trial", run, tolerance)


def scaled_by(factor: float) -> Callable[[ir.Graph], None]:
    def scale(graph: ir.Graph) -> None:
        old = constant(graph[0].inputs[1])
        assert old is not None
        graph[0].replace_input_with(1, add_constant(graph, "scaled", old * np.float32(factor)))

    return scale


def rename_output(graph: ir.Graph) -> None:
    graph.outputs[0].name = "z"


def declare_another_shape(graph: ir.Graph) -> None:
    graph.outputs[0].shape = ir.Shape((2, 4))


def drop_an_input(graph: ir.Graph) -> None:
    graph.inputs.clear()


def broadcast_in_silence(graph: ir.Graph) -> None:
    """The declared shape stays, the true one grows by an axis."""
    graph[0].replace_input_with(1, add_constant(graph, "stacked", np.stack([WEIGHT, WEIGHT])))


def take_a_logarithm(graph: ir.Graph) -> None:
    graph[1].op_type = "Log"


def use_no_operator(graph: ir.Graph) -> None:
    graph[1].op_type = "NoSuchOperator"


def nothing(graph: ir.Graph) -> None:
    pass


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        (rename_output, r"to x FLOAT \[4,3\] -> z FLOAT \[4,2\]"),
        (declare_another_shape, r"from .* y FLOAT \[4,2\] to .* y FLOAT \[2,4\]"),
        (drop_an_input, r"to  -> y FLOAT \[4,2\]"),
        (broadcast_in_silence, r"shape of y from \[4, 2\] to \[2, 4, 2\]"),
        (use_no_operator, "left a graph that does not run: .*NoSuchOperator"),
    ],
)
def test_a_pass_that_changes_the_interface_is_stopped(
    edit: Callable[[ir.Graph], None], found: str
) -> None:
    with pytest.raises(PassBroken, match=f"The pass trial .*{found}"):
        apply(a_pass(edit), linear(), X)


def test_a_weight_off_by_one_percent_is_stopped_with_both_numbers() -> None:
    with pytest.raises(PassBroken, match=r"trial .* by [0-9.]+e-03 .* promises at most 1e-06"):
        apply(a_pass(scaled_by(1.01)), linear(), X)


def test_an_answer_that_is_not_finite_is_stopped() -> None:
    with pytest.raises(PassBroken, match="by inf relative L2"):
        apply(a_pass(take_a_logarithm), linear(), X)


def test_the_tolerance_is_the_one_that_the_pass_states() -> None:
    _, report = apply(a_pass(scaled_by(1.01), tolerance=0.01), linear(), X)

    assert 0.001 < report.relative_l2 <= 0.01


def test_a_graph_that_answers_with_zeros_may_be_left_alone_but_not_changed() -> None:
    zeros = graph("(float[4, 3] x) => (float[4, 2] y)", "y = MatMul(x, w)", w=np.zeros((3, 2)))

    _, report = apply(a_pass(nothing), zeros, X)

    assert report.relative_l2 == 0.0
    with pytest.raises(PassBroken, match="by inf relative L2"):
        apply(a_pass(lambda g: g[0].replace_input_with(1, add_constant(g, "w", WEIGHT))), zeros, X)


@pytest.mark.parametrize("edit", [scaled_by(1 + 1e-7), scaled_by(2.0), rename_output])
def test_the_given_model_is_left_as_it_was(edit: Callable[[ir.Graph], None]) -> None:
    model = linear()
    before = as_text(model)

    with contextlib.suppress(PassBroken):
        apply(a_pass(edit), model, X)

    assert as_text(model) == before


def test_the_report_counts_nodes_and_bytes_before_and_after() -> None:
    def average_two_tanhs(graph: ir.Graph) -> None:
        twice = ir.node("Tanh", [graph[0].outputs[0]])
        graph.insert_after(graph[1], twice)
        half = add_constant(graph, "half", np.float32([0.5]))
        total = ir.node("Add", [graph[1].outputs[0], twice.outputs[0]])
        mean = ir.node("Mul", [total.outputs[0], half])
        graph.insert_after(twice, [total, mean])
        old, new = graph.outputs[0], mean.outputs[0]
        new.shape, new.type, old.name, new.name = old.shape, old.type, "before", old.name
        graph.outputs[0] = new

    _, report = apply(a_pass(average_two_tanhs), linear(), X)

    assert report.nodes_before == {"MatMul": 1, "Tanh": 1}
    assert report.nodes_after == {"Add": 1, "MatMul": 1, "Mul": 1, "Tanh": 2}
    assert report.weight_bytes_before == 24
    assert report.weight_bytes_after == 28


def test_nodes_and_weights_that_nothing_needs_any_more_are_gone() -> None:
    model = graph(
        "(float[4, 3] x) => (float[4, 2] y)",
        "idle = MatMul(x, v) y = MatMul(x, w)",
        v=noise(3, 5),
        w=WEIGHT,
    )

    edited, report = apply(a_pass(nothing), model, X)

    assert ops(edited) == {"MatMul": 1}
    assert list(edited.graph.initializers) == ["w"]
    assert (report.weight_bytes_before, report.weight_bytes_after) == (84, 24)


def test_a_pass_that_finds_no_site_says_so() -> None:
    _, report = apply(a_pass(nothing), linear(), X)

    assert report.name == "trial"
    assert report.rewritten == ()
    assert report.skipped == {}
    assert report.relative_l2 == 0.0


def test_sites_go_by_their_first_output_and_the_first_reason_counts() -> None:
    product, tanh = linear().graph
    sites = Sites()

    sites.rewrite(product)
    sites.skip(tanh, "it is the cause")
    sites.skip(tanh, "it follows from that")

    assert sites.rewritten == ["m"]
    assert sites.skipped == {"y": "it is the cause"}


def test_passes_run_in_order_and_each_is_held_against_the_one_before() -> None:
    twice = [GraphPass(f"by {f}", a_pass(scaled_by(f)).edit, 0.009) for f in (1.01, 1.0, 1.01)]

    _, reports = apply_all(twice, linear(), X)

    assert [report.name for report in reports] == ["by 1.01", "by 1.0", "by 1.01"]
    assert reports[1].relative_l2 == 0.0
    assert reports[0].relative_l2 > 0.001
    assert reports[2].relative_l2 > 0.001


def test_a_broken_pass_stops_those_after_it() -> None:
    seen: list[str] = []
    later = a_pass(lambda graph: seen.append("ran"))

    with pytest.raises(PassBroken):
        apply_all([a_pass(scaled_by(2.0)), later], linear(), X)

    assert seen == []


def test_the_interface_names_inputs_and_outputs_with_types_and_shapes() -> None:
    assert interface(linear()) == "x FLOAT [4,3] -> y FLOAT [4,2]"
