from __future__ import annotations

import dataclasses

import pytest
from bundle_helpers import one_line, toy_manifest

from pitstop import OptionError
from pitstop.calibration.base_precision import choose_base
from pitstop.runtime.bundle.manifest import Manifest
from pitstop.runtime.bundle.precision import INT8


def manifest(*precisions: str, target: str = "portable", opset: int = 19) -> Manifest:
    toy = toy_manifest()
    spec = dataclasses.replace(toy.denoiser("fp32"), opset=opset)
    graphs = {f"denoiser.{precision}": spec for precision in precisions}
    return dataclasses.replace(toy, graphs=graphs, target=target)


@pytest.mark.parametrize(
    ("given", "asked", "base"),
    [
        (manifest("fp32"), None, "fp32"),
        (manifest("fp32", "bf16"), None, "fp32"),
        (manifest("fp32", "fp16"), None, "fp16"),
        (manifest("fp32", "fp16"), "fp32", "fp32"),
        (manifest("fp32", "fp16", target="tensorrt10"), None, "fp16"),
        (manifest("fp32", "fp16", target="openvino"), None, "fp32"),
        (manifest("fp32", "fp16", target="onnxruntime"), None, "fp32"),
        (manifest("fp32", "fp16", target="onnxruntime"), "fp16", "fp16"),
        (manifest("fp32", opset=18), None, "fp32"),
    ],
)
def test_fp16_is_the_base_where_the_target_computes_in_it(
    given: Manifest, asked: str | None, base: str
) -> None:
    assert choose_base(given, asked, INT8) == base


def test_a_base_that_the_bundle_has_not_is_refused() -> None:
    with pytest.raises(OptionError) as caught:
        choose_base(manifest("fp32", "int8"), "fp16", INT8)

    assert one_line(caught.value) == (
        "This bundle has no fp16 denoiser to quantize. Export it again with `--precision fp16`, "
        "or use `--base fp32`."
    )


@pytest.mark.parametrize("asked", [None, "fp16"])
def test_an_fp16_graph_too_old_for_fp16_scales_is_refused(asked: str | None) -> None:
    with pytest.raises(OptionError) as caught:
        choose_base(manifest("fp32", "fp16", opset=18), asked, INT8)

    assert one_line(caught.value) == (
        "The fp16 denoiser has opset 18, fp16 scales need 19. Export the bundle again, or use "
        "`--base fp32`."
    )


def test_a_graph_too_old_for_the_precision_is_refused() -> None:
    with pytest.raises(OptionError) as caught:
        choose_base(manifest("fp32", opset=12), None, INT8)

    assert one_line(caught.value).startswith("The fp32 denoiser has opset 12, int8 needs 13.")
