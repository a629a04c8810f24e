from __future__ import annotations

import onnx_ir as ir
from pass_helpers import graph, noise

from pitstop.graphs.scopes import (
    MODULE,
    complete_modules,
    module_of,
    modules_by_output,
    restore_modules,
)
from pitstop.graphs.weights import insert, insert_before, insert_behind, replace_node

MODULES = {"a": "blocks.0.attn.q", "b": "blocks.0.attn", "c": "blocks.1", "y": ""}


def scoped(**modules: str) -> ir.Model:
    """Four nodes, each in its module, but for ``modules``."""
    model = graph("(float[2] x) => (float[2] y)", "a = Abs(x) b = Neg(a) c = Exp(a) y = Add(b, c)")
    restore_modules(model.graph, {**MODULES, **modules})
    return model


def node_of(model: ir.Model, name: str) -> ir.Node:
    return next(node for node in model.graph if node.outputs[0].name == name)


def test_a_node_tells_its_module_in_its_metadata() -> None:
    model = scoped()

    assert node_of(model, "b").metadata_props == {MODULE: "blocks.0.attn"}
    assert modules_by_output(model.graph) == MODULES


def test_modules_are_saved_with_the_graph() -> None:
    again = ir.from_proto(ir.to_proto(scoped()))

    assert modules_by_output(again.graph) == MODULES


def test_a_node_without_a_module_has_the_innermost_around_its_readers() -> None:
    model = scoped()
    for node in model.graph:
        node.metadata_props.clear()

    restore_modules(model.graph, {"b": "blocks.0.attn.q", "c": "blocks.0.attn.k"})

    found = modules_by_output(model.graph)
    assert found["a"] == "blocks.0.attn"
    assert found["y"] == ""


def test_modules_with_names_that_begin_alike_are_not_one() -> None:
    model = scoped()
    node_of(model, "a").metadata_props.clear()
    restore_modules(model.graph, {"b": "blocks.1.attn", "c": "blocks.10.attn"})

    assert module_of(node_of(model, "a")) == "blocks"


def test_a_graph_that_tells_no_modules_is_left_alone() -> None:
    model = graph("(float[2] x) => (float[2] y)", "a = Abs(x) y = Neg(a)")

    complete_modules(model.graph)

    assert modules_by_output(model.graph) == {}


def test_what_takes_the_place_of_a_node_has_its_module() -> None:
    model = scoped()
    place = node_of(model, "b")

    made = insert(model.graph, place, "Neg", list(place.inputs), (2,))  # type: ignore[arg-type]
    replace_node(model.graph, place, made)

    maker = made.producer()
    assert maker is not None
    assert module_of(maker) == "blocks.0.attn"


def test_what_stands_behind_a_value_has_the_module_that_makes_it_or_the_first() -> None:
    model = scoped()
    made, fed = node_of(model, "c").outputs[0], model.graph.inputs[0]
    behind, first, before = (ir.node("Abs", [value]) for value in (made, fed, fed))

    insert_behind(model.graph, made, [behind])
    insert_before(model.graph, node_of(model, "y"), before)
    insert_behind(model.graph, fed, [first])

    assert [module_of(node) for node in (behind, first, before)] == [
        "blocks.1",
        "blocks.0.attn.q",
        "",
    ]
    order = [node.op_type for node in model.graph]
    assert order == ["Abs", "Abs", "Neg", "Exp", "Abs", "Abs", "Add"]


def test_a_graph_without_modules_gets_none_by_what_is_put_into_it() -> None:
    model = graph("(float[2, 3] x) => (float[2, 3] y)", "a = Add(x, w) y = Neg(a)", w=noise(3))

    insert_behind(model.graph, model.graph[0].outputs[0], [ir.node("Abs", [model.graph.inputs[0]])])

    assert modules_by_output(model.graph) == {}
