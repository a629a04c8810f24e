from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_helpers import check_shapes, graph, noise, ops

from pitstop.export.graph_pass import apply
from pitstop.export.passes import MERGE_MOVES
from pitstop.graphs.weights import dims


def test_a_chain_becomes_one_transpose_between_two_reshapes() -> None:
    body = (
        "a = Transpose<perm=[0, 2, 1]>(x) b = Reshape(a, s1) c = Transpose<perm=[2, 0, 1]>(b) "
        "y = Reshape(c, s2)"
    )
    model = graph("(float[4, 6, 5] x) => (float[2, 60] y)", body, s1=[20, 3, 2], s2=[2, 60])

    merged, report = apply(MERGE_MOVES, model, {"x": noise(4, 6, 5)})

    assert report.rewritten == ("y",)
    assert report.relative_l2 == 0
    assert [node.op_type for node in merged.graph] == ["Reshape", "Transpose", "Reshape"]


def test_a_chain_that_cuts_an_axis_where_it_has_no_factor_stays() -> None:
    body = (
        "a = Transpose<perm=[1, 0]>(x) b = Reshape(a, s1) c = Transpose<perm=[2, 0, 1]>(b) "
        "d = Reshape(c, s2) y = Transpose<perm=[1, 0]>(d)"
    )
    model = graph("(float[4, 6] x) => (float[8, 3] y)", body, s1=[3, 2, 4], s2=[3, 8])
    # c: [4, 3, 2]; its 24 numbers as 3 x 8 would cut the 4 in 3: no factor

    _, report = apply(MERGE_MOVES, model, {"x": noise(4, 6)})

    assert report.skipped == {"y": "its shapes have no factors in common"}


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[int], list[tuple[str, list[int]]]]:
    """A shape of small primes, and moves of it whose shapes are products of neighbours."""
    sides = draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=2, max_size=5))
    shape, moves = list(sides), []
    for _ in range(draw(st.integers(2, 5))):
        if draw(st.booleans()):
            perm = draw(st.permutations(range(len(shape))))
            shape = [shape[axis] for axis in perm]
            moves.append(("Transpose", list(perm)))
        elif len(shape) > 1:
            at = draw(st.integers(0, len(shape) - 2))
            shape = [*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :]]
            moves.append(("Reshape", shape))
        elif shape[0] % 2 == 0:
            shape = [2, shape[0] // 2]
            moves.append(("Reshape", shape))
    return sides, moves


@given(chain=chains())
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_any_chain_moves_every_number_to_its_place(
    chain: tuple[list[int], list[tuple[str, list[int]]]],
) -> None:
    shape, moves = chain
    numbers = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    body, last, weights = "v0 = Neg(x) ", "v0", {}
    for index, (kind, how) in enumerate(moves):
        name = f"v{index + 1}"
        if kind == "Transpose":
            body += f"{name} = Transpose<perm={how}>({last}) "
        else:
            weights[f"s{index}"] = how
            body += f"{name} = Reshape({last}, s{index}) "
        last = name
    end = numbers
    for kind, how in moves:
        end = end.transpose(how) if kind == "Transpose" else end.reshape(how)
    signature = f"(float{list(shape)} x) => (float{list(end.shape)} y)"
    model = graph(signature, body + f"y = Neg({last})", **weights)

    merged, report = apply(MERGE_MOVES, model, {"x": numbers})

    assert report.relative_l2 == 0
    turns = [kind for kind, _ in moves].count("Transpose")
    assert bool(report.rewritten or report.skipped) == (turns > 1)
    if report.rewritten:
        assert ops(merged)["Transpose"] == 1
        assert ops(merged)["Reshape"] == 2
    check_shapes(merged)


def test_a_value_that_something_else_reads_ends_a_chain() -> None:
    body = "a = Transpose<perm=[1, 0]>(x) y = Transpose<perm=[1, 0]>(a) z = Neg(a)"
    model = graph("(float[4, 6] x) => (float[4, 6] y, float[6, 4] z)", body)

    merged, report = apply(MERGE_MOVES, model, {"x": noise(4, 6)})

    assert report.rewritten == ()
    assert next(dims(node.outputs[0]) for node in merged.graph) == (6, 4)
