"""What a bundle's graphs are made for: a row for each family of devices and engines.

A pass that does not pay on a target, as measured by ``benchmarks/passes.py``, is off there.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..runtime.errors import one_of


@dataclass(frozen=True)
class Target:
    """A family of engines.

    Attributes:
        opset: Version of the ONNX operators that all of them read.
        off: Names of the passes that do not pay there, or that they cannot read.
    """

    opset: int = 19  # the first in which Q/DQ takes fp16 scales; TensorRT 10.3 reads it
    off: tuple[str, ...] = ()


# TensorRT-RTX has no fp32 kernel for opset 23's Attention with a position bias.
DECOMPOSED = ("multi_head_attention", "onnx_attention")

TARGETS = {
    "portable": Target(off=DECOMPOSED),
    # Slower there on the CPU provider, as measured.
    "onnxruntime": Target(off=("window_major", "onnx_attention")),
    "openvino": Target(off=DECOMPOSED),
    "tensorrt10": Target(off=DECOMPOSED),  # JetPack 6
    "tensorrt11": Target(off=DECOMPOSED),
    "tensorrt-rtx": Target(off=DECOMPOSED),
}


def find_target(name: str) -> Target:
    """The target called ``name``.

    Raises:
        OptionError: There is none; the message says which there are.
    """
    if name not in TARGETS:
        raise one_of("target", name, TARGETS)
    return TARGETS[name]
