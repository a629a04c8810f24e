from __future__ import annotations

import onnx_ir as ir
import pytest
from pass_helpers import check_shapes, graph, noise, ops

from pitstop.export.graph_pass import apply
from pitstop.export.passes import ROW_GATES

# Six tokens of each image: three places of two windows.
BODY = "g = Neg(m) a = Reshape(y, apart) p = Mul({factors}) r = Reshape(p, rows) z = Add({terms})"


def gated(images: int, *, factors: str = "g, a", terms: str = "x, r") -> ir.Model:
    rows = 6 * images
    signature = (
        f"(float[{rows}, 4] x, float[{rows}, 4] y, float[{images}, 1, 4] m) => (float[{rows}, 4] z)"
    )
    body = BODY.format(factors=factors, terms=terms)
    return graph(signature, body, apart=[3, images, 2, 4], rows=[rows, 4])


def feeds(images: int) -> dict[str, object]:
    return {"x": noise(6 * images, 4), "y": noise(6 * images, 4), "m": noise(images, 1, 4)}


@pytest.mark.parametrize("images", [1, 2, 4])
@pytest.mark.parametrize("factors", ["g, a", "a, g"])
@pytest.mark.parametrize("terms", ["x, r", "r, x"])
def test_each_images_gate_becomes_a_row_of_its_own(images: int, factors: str, terms: str) -> None:
    model = gated(images, factors=factors, terms=terms)

    told, report = apply(ROW_GATES, model, feeds(images))  # type: ignore[arg-type]

    assert report.rewritten == ("z",)
    assert report.relative_l2 == 0
    assert ops(told)["Add"] == images
    check_shapes(told)


def test_more_images_than_pay_are_left_alone_and_why_is_told() -> None:
    told, report = apply(ROW_GATES, gated(5), feeds(5))  # type: ignore[arg-type]

    assert report.rewritten == ()
    assert "5 images" in report.skipped["z"]
    assert ops(told)["Add"] == 1


def test_a_product_that_something_else_reads_stays() -> None:
    body = BODY.format(factors="g, a", terms="x, r") + " w = Neg(p)"
    signature = (
        "(float[12, 4] x, float[12, 4] y, float[2, 1, 4] m) => "
        "(float[12, 4] z, float[3, 2, 2, 4] w)"
    )
    model = graph(signature, body, apart=[3, 2, 2, 4], rows=[12, 4])

    _, report = apply(ROW_GATES, model, feeds(2))  # type: ignore[arg-type]

    assert report.rewritten == ()
