"""Which of a bundle's graphs becomes the int8 one: the precision of what is not quantized."""

from __future__ import annotations

from .. import OptionError
from ..runtime.bundle.manifest import Manifest

FP32_TARGETS = ("onnxruntime", "openvino")  # a CPU has no fp16 arithmetic
FP16_OPSET = 19  # the first with fp16 scales


def choose_base(manifest: Manifest, asked: str | None) -> str:
    """``asked``, or else fp16 where devices of the target have it, and the bundle too.

    Raises:
        OptionError: The bundle has no denoiser of it, or its opset has no fp16 scales.
    """
    base = asked or _by_itself(manifest)
    if base != "fp32" and base not in manifest.precisions:
        raise OptionError(
            f"This bundle has no {base} denoiser to quantize",
            f"Export it again with `--precision {base}`, or use `--base fp32`",
        )
    spec = manifest.denoiser(base)
    if base == "fp16" and spec.opset < FP16_OPSET:
        raise OptionError(
            f"The fp16 denoiser has opset {spec.opset}, fp16 scales need {FP16_OPSET}",
            "Export the bundle again, or use `--base fp32`",
        )
    return base


def _by_itself(manifest: Manifest) -> str:
    on_device = "fp16" in manifest.precisions and manifest.target not in FP32_TARGETS
    return "fp16" if on_device else "fp32"
