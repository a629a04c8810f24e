"""What a bundle's graphs are made for: a row for each family of devices and engines.

A pass that does not pay on a target is off there: on CPUs as measured by ``benchmarks/passes.py``,
on engines as counted by ``benchmarks/engine_cost.py`` until a GPU has spoken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .. import OptionError, one_of
from ..runtime.bundle.precision import FLOATING


@dataclass(frozen=True)
class Target:
    """A family of engines.

    Attributes:
        opset: Version of the ONNX operators that all of them read.
        off: Names of the passes that do not pay there, or that they cannot read.
        precisions: Of the floating-point graphs that they run.
        in_fp16: Names of the rules of `lowering.kept_fp32` that do not hold in fp16.
    """

    opset: int = 19  # the first in which Q/DQ takes fp16 scales; TensorRT 10.3 reads it
    off: tuple[str, ...] = ()
    precisions: tuple[str, ...] = FLOATING
    in_fp16: tuple[str, ...] = ()


# TensorRT-RTX has no fp32 kernel for opset 23's Attention with a position bias.
DECOMPOSED = ("multi_head_attention", "onnx_attention")
# It costs multiplications by zero: both CPU backends are slower with it, GPUs were not measured.
UNPADDED = ("pad_heads",)
# They bring an engine's block of PiT from 13 kernels to 9 (benchmarks/engine_cost.py). CPUs, which
# launch nothing, would only multiply by zeros.
FOR_ENGINES = ("place_major", "batch_projections", "shift_taps", "row_gates", "merge_moves")
# For engines: a norm or a matmul is one kernel with what follows it, in half of the bytes.
STREAM = ("residual stream", "modulation", "conditioning")
# Both CPU backends are slower with it: the bridge regathers its grid in a transpose of six axes.
ROW_MAJOR = ("window_major",)

TARGETS = {
    "portable": Target(off=(*UNPADDED, *DECOMPOSED, *FOR_ENGINES)),
    # Its CPU provider has no bf16 kernels.
    "onnxruntime": Target(
        off=(*ROW_MAJOR, *UNPADDED, "onnx_attention", *FOR_ENGINES), precisions=("fp32", "fp16")
    ),
    "openvino": Target(off=(*ROW_MAJOR, *UNPADDED, *DECOMPOSED, *FOR_ENGINES)),
    "tensorrt10": Target(off=(*UNPADDED, *DECOMPOSED), in_fp16=STREAM),  # JetPack 6
    "tensorrt11": Target(off=(*UNPADDED, *DECOMPOSED), in_fp16=STREAM),
    "tensorrt-rtx": Target(off=(*UNPADDED, *DECOMPOSED), in_fp16=STREAM),
}


def find_target(name: str) -> Target:
    """The target called ``name``.

    Raises:
        OptionError: There is none; the message says which there are.
    """
    if name not in TARGETS:
        raise one_of("target", name, TARGETS)
    return TARGETS[name]


def check_precisions(name: str, precisions: Sequence[str]) -> None:
    """Refuse precisions that the target called ``name`` does not run.

    Raises:
        OptionError: The message says which it runs.
    """
    known = find_target(name).precisions
    for precision in precisions:
        if precision not in known:
            raise OptionError(
                f"The target {name} has no kernels for {precision}",
                f"Choose `--precision` among {', '.join(known)}, or another `--target`",
            )
