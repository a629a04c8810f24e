from __future__ import annotations

from collections import Counter
from typing import Any

import onnx_ir as ir
import pytest
from model_helpers import tiny_edt
from pass_helpers import graph, noise, traced
from rope_helpers import DEPTH, rope_traced

from pitstop.graphs.attention import Attention, Operand, find_attention
from pitstop.graphs.scopes import module_of, restore_modules
from pitstop.models.amm import AmmConfig

CUT = ["Squeeze", "Slice", "Transpose", "Reshape"]
# One head of two channels over three tokens, as [B, H, S, d].
SCORES = "t = Transpose<perm = [0, 1, 3, 2]>(k) a = MatMul(q, t) "
MIX = "p = Softmax<axis = -1>(a) y = MatMul(p, v)"


def attentions(model: ir.Model) -> list[Attention]:
    found = [find_attention(node) for node in model.graph if node.op_type == "Softmax"]
    return [one for one in found if isinstance(one, Attention)]


def types(nodes: tuple[ir.Node, ...]) -> list[str]:
    return [node.op_type for node in nodes]


def small(body: str, **weights: Any) -> ir.Model:
    signature = "(float[1, 1, 3, 2] x, float[1, 1, 3, 2] k, float[1, 1, 3, 2] v) => "
    return graph(f"{signature}(float[1, 1, 3, 2] y)", body, **weights)


def q_of(body: str, **weights: Any) -> Operand:
    """q, where a body makes it of x."""
    [found] = attentions(small(body + SCORES + MIX, **weights))
    return found.q


def test_an_attention_with_rope_and_norms_is_read_whole() -> None:
    found = attentions(rope_traced())

    assert len(found) == DEPTH
    for index, attention in enumerate(found):
        q, k, v = attention.operands
        assert [types(operand.moves) for operand in (q, k, v)] == [CUT] * 3
        assert {module_of(node) for node in q.norm} == {f"blocks.{index}.attn.q_norm"}
        assert {module_of(node) for node in k.norm} == {f"blocks.{index}.attn.k_norm"}
        assert len(q.norm) == len(k.norm) == 7
        assert {module_of(node) for node in q.rope} == {f"blocks.{index}.attn.rope"}
        assert types(q.rope)[:3] == ["Add", "Mul", "Mul"]
        assert (q.scale is None, q.swapped is None) == (False, True)
        assert (k.scale is None, k.swapped is None) == (True, False)
        assert (v.norm, v.rope, v.scale, v.swapped) == ((), (), None, None)


def test_without_norms_rope_turns_what_the_linear_made() -> None:
    for attention in attentions(rope_traced(normed=False)):
        assert attention.q.norm == ()
        assert attention.q.rope
        assert attention.q.normed is attention.q.moves[0].outputs[0]


def test_a_bias_and_a_modulation_stand_where_they_may() -> None:
    model = traced(tiny_edt(amm=AmmConfig((1,))))
    assert Counter(node.op_type for node in model.graph)["Softmax"] == 5

    found = attentions(model)

    assert len(found) == 5
    assert all(attention.bias is not None for attention in found)


@pytest.mark.parametrize(
    "turn",
    [
        "a0, b0 = Split<axis = 3, num_outputs = 2>(x) n = Neg(b0) z = Concat<axis = 3>(n, a0)",
        "z = Transpose<perm = [0, 1, 2, 3]>(x)",
    ],
)
def test_rope_is_a_sum_of_products_of_a_value_and_its_turn(turn: str) -> None:
    tables = {"cos": noise(3, 2), "sin": noise(3, 2, seed=1)}

    for order in ("c, s", "s, c"):
        body = f"{turn} c = Mul(x, cos) s = Mul(sin, z) q = Add({order}) "
        q = q_of(body, **tables)
        assert types(q.rope)[:3] == ["Add", "Mul", "Mul"]
        assert q.normed.name == "x"


@pytest.mark.parametrize(
    "turn",
    [
        "z = Tanh(x)",
        "z = Neg(v)",
        "a0, b0 = Split<axis = 3, num_outputs = 2>(x) z = Concat<axis = 3>(a0, ones)",
    ],
    ids=["no move", "of another", "with a constant"],
)
def test_what_is_no_turn_makes_no_rope(turn: str) -> None:
    tables = {"cos": noise(3, 2), "sin": noise(3, 2, seed=1), "ones": noise(1, 1, 3, 1)}
    tables = {name: table for name, table in tables.items() if name != "ones" or "ones" in turn}

    q = q_of(f"{turn} c = Mul(x, cos) s = Mul(z, sin) q = Add(c, s) ", **tables)

    assert q.rope == ()
    assert q.normed.name == "q"


NORM = "o = Mul(x, x) m = ReduceMean<axes = [-1]>(o) r = Sqrt(m) d = Div(x, r) q = Mul(d, w) "


def test_a_norm_of_several_nodes_is_known_by_the_name_of_its_module() -> None:
    model = small(
        NORM.replace("<axes = [-1]>(o)", "(o, last)") + SCORES + MIX, w=[0.3, 0.7], last=[-1]
    )
    [bare] = attentions(model)
    inside = dict.fromkeys("omrdq", "attn.q_norm")

    restore_modules(model.graph, {**inside, "t": "attn", "a": "attn", "p": "attn", "y": "attn"})
    [named] = attentions(model)

    assert bare.q.norm == ()
    assert sorted(types(named.q.norm)) == ["Div", "Mul", "Mul", "ReduceMean", "Sqrt"]
    assert types(named.q.norm)[0] == "Mul"
    assert named.q.moves == ()


def test_what_reads_two_values_is_no_norm() -> None:
    model = small("d = Mul(x, v) q = Abs(d) " + SCORES + MIX)
    restore_modules(model.graph, {"d": "norm", "q": "norm", "t": "", "a": "", "p": "", "y": ""})

    [found] = attentions(model)

    assert found.q.norm == ()


def test_a_layer_norm_needs_no_module() -> None:
    q = q_of("q = LayerNormalization<axis = -1>(x, w) ", w=[0.3, 0.7])

    assert types(q.norm) == ["LayerNormalization"]


@pytest.mark.parametrize(
    "body",
    [
        "a = Neg(x) p = Softmax<axis = -1>(a) y = MatMul(p, v)",
        SCORES.replace("(q,", "(x,") + "p = Softmax<axis = -1>(a) y = Neg(p)",
        SCORES.replace("(q,", "(x,") + "p = Softmax<axis = -1>(a) b = MatMul(p, v) y = Add(b, p)",
    ],
)
def test_a_softmax_without_its_matmuls_is_no_attention(body: str) -> None:
    sides = "(float[1, 1, 2, 2] x, float[1, 1, 2, 2] k, float[1, 1, 2, 2] v)"
    model = graph(f"{sides} => (float[1, 1, 2, 2] y)", body)
    [softmax] = [node for node in model.graph if node.op_type == "Softmax"]

    assert find_attention(softmax) == "no matmul makes its scores, or none uses them"
