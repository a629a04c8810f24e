from __future__ import annotations

import numpy as np
from pass_helpers import graph, noise

from pitstop.graphs.graph_file import run_graph
from pitstop.graphs.weights import (
    add_constant,
    constant,
    is_constant,
    is_op,
    made_by,
    replace_node,
    sole_user,
    weight_bytes,
)

LINEAR = "(float[4, 3] x) => (float[4, 2] y)"


def test_bytes_are_counted_over_all_initializers() -> None:
    model = graph(LINEAR, "m = MatMul(x, w) y = Add(m, b)", w=noise(3, 2), b=noise(2))

    assert weight_bytes(model) == 4 * (6 + 2)


def test_a_default_that_may_be_fed_is_no_constant() -> None:
    signature = LINEAR.replace("x)", "x, float[3, 2] w)")
    model = graph(signature, "m = MatMul(x, w) y = Add(m, b)", w=noise(3, 2), b=noise(2))
    product, total = model.graph

    fed, made, kept = product.inputs[1], product.outputs[0], total.inputs[1]
    assert [constant(value) for value in (fed, made, None)] == [None] * 3
    assert constant(kept) is not None
    assert [is_constant(value) for value in (fed, made, None, kept)] == [False] * 3 + [True]


def test_a_value_that_leaves_the_graph_or_feeds_two_nodes_has_no_sole_user() -> None:
    model = graph(
        LINEAR.replace("y)", "y, float[4, 2] m)"),
        "m = MatMul(x, w) n = Relu(m) o = Tanh(n) p = Neg(n) y = Add(o, p)",
        w=noise(3, 2),
    )
    m, n, o, p, y = (node.outputs[0] for node in model.graph)

    assert [sole_user(value) for value in (m, n, y)] == [None] * 3
    assert sole_user(o) is sole_user(p) is model.graph[-1]


def test_a_node_is_known_by_type_and_attributes() -> None:
    model = graph("(float[4, 3] x) => (float[3, 4] y)", "y = Transpose<perm=[1, 0]>(x)")
    node = model.graph[0]

    assert is_op(node, "Transpose", perm=(1, 0))
    assert not is_op(node, "Transpose", perm=(0, 1))
    assert not is_op(node, "Transpose", axis=0)
    assert not is_op(node, "Reshape")
    assert made_by(node.outputs[0], "Transpose") is node
    assert made_by(node.inputs[0], "Transpose") is None


def test_a_new_constant_takes_a_name_that_is_free() -> None:
    model = graph(LINEAR, "y = MatMul(x, w)", w=noise(3, 2))

    names = [add_constant(model.graph, "w", np.float32([index])).name for index in range(3)]

    assert names == ["w_1", "w_2", "w_3"]
    assert constant(model.graph.initializers["w_2"]) == [1.0]


def test_what_replaces_the_last_node_takes_the_name_of_the_output() -> None:
    model = graph(LINEAR, "m = MatMul(x, w) n = Relu(m) y = Relu(n)", w=noise(3, 2))
    product, _, last = model.graph

    replace_node(model.graph, last, product.outputs[0])

    assert [value.name for value in model.graph.outputs] == ["y"]
    assert run_graph(model, {"x": noise(4, 3)})["y"].min() < 0


def test_a_new_constant_has_the_shape_that_it_says() -> None:
    model = graph("(float[2] x) => (float[2] y)", "y = Abs(x)")

    for array in (np.array(0.5), noise(3, 2).T):
        value = add_constant(model.graph, "made", array)
        assert constant(value) is not None
        assert constant(value).shape == array.shape == value.shape  # type: ignore[union-attr]
