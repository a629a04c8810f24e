"""Which of a bundle's graphs becomes the quantized one: the precision of all else in it."""

from __future__ import annotations

from .. import OptionError
from ..runtime.bundle.manifest import Manifest
from ..runtime.bundle.precision import FP16, FP32, Precision

FP32_TARGETS = ("onnxruntime", "openvino")  # a CPU has no fp16 arithmetic


def choose_base(manifest: Manifest, asked: str | None, precision: Precision) -> str:
    """``asked``, or else fp16 where devices of the target have it, and the bundle too.

    Raises:
        OptionError: The bundle has no denoiser of it, or its opset has no fp16 scales.
    """
    base = asked or _by_itself(manifest)
    if base != FP32.name and base not in manifest.precisions:
        raise OptionError(
            f"This bundle has no {base} denoiser to quantize",
            f"Export it again with `--precision {base}`, or use `--base fp32`",
        )
    spec = manifest.denoiser(base)
    if spec.opset < precision.opset:
        raise OptionError(
            f"The {base} denoiser has opset {spec.opset}, {precision.name} needs {precision.opset}",
            "Export the bundle again with this version of pitstop",
        )
    if base == FP16.name and spec.opset < (least := precision.fp16_scales_opset):
        raise OptionError(
            f"The fp16 denoiser has opset {spec.opset}, fp16 scales need {least}",
            "Export the bundle again, or use `--base fp32`",
        )
    return base


def _by_itself(manifest: Manifest) -> str:
    on_device = FP16.name in manifest.precisions and manifest.target not in FP32_TARGETS
    return FP16.name if on_device else FP32.name
