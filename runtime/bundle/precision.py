"""What a denoiser's graph can be in: each precision as a value, with all that depends on it.

Nobody else knows what a precision stores, how it rounds or what it is held to: others ask the value
that a name in a manifest or an option stands for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Precision:
    """One way to write a denoiser's graph.

    Attributes:
        name: As graphs and ``--precision`` have it.
        dtype: ONNX's name of the type that weights are stored in.
        largest: The largest number of that type, on which the largest value of what is quantized
            falls; infinite where a denoiser's values do not reach it.
        min_psnr_db: What the median image must reach, where the user sets no gate.
        max_relative_l2: What a single call must reach, where the user sets no gate; None where the
            images alone are judged.
        block_limit: What rounding explains of a block's relative L2. Measured on the demo and
            PiT-S/2.
        tolerance: The relative L2 that a single call of an exported graph stays within; infinite
            where none is promised.
        runs_here: Whether ONNX Runtime's CPU provider has the kernels.
        smallest_scale: Of what is quantized, where scales are stored in this precision; None where
            they never are.
        bases: Of a quantized precision: those that the rest of the graph can be in.
        opset: The first ONNX opset that can say it.
        fp16_scales_opset: The first in which its Q/DQ takes fp16 scales.
    """

    name: str
    dtype: str
    largest: float
    min_psnr_db: float
    block_limit: float
    max_relative_l2: float | None = None
    tolerance: float = math.inf
    runs_here: bool = True
    smallest_scale: float | None = None
    bases: tuple[str, ...] = ()
    opset: int = 1
    fp16_scales_opset: int = 1

    @property
    def quantized(self) -> bool:
        """Whether a calibration writes its graph, on top of another precision's."""
        return bool(self.bases)

    def nearest(self, scaled: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The stored numbers nearest to those of a quantized tensor, in units of its scale."""
        clipped: npt.NDArray[Any] = np.clip(np.round(scaled), -self.largest, self.largest)
        return clipped


FP32 = Precision(
    "fp32",
    "FLOAT",
    largest=math.inf,
    min_psnr_db=60.0,
    block_limit=1e-5,
    max_relative_l2=1e-5,
    tolerance=1e-5,
    smallest_scale=2.0**-60,  # the product of two scales must be normal
)
FP16 = Precision(
    "fp16",
    "FLOAT16",
    largest=65504.0,
    min_psnr_db=60.0,
    block_limit=1e-3,
    tolerance=1e-2,
    smallest_scale=2.0**-14,  # the smallest normal number
)
BF16 = Precision(
    "bf16",
    "BFLOAT16",
    largest=math.inf,  # it has the range of fp32
    min_psnr_db=48.0,
    block_limit=1e-2,
    tolerance=8e-2,
    runs_here=False,
)
INT8 = Precision(
    "int8",
    "INT8",
    largest=127,
    min_psnr_db=40.0,
    block_limit=1e-1,
    bases=("fp16", "fp32"),
    opset=13,  # the first with a scale for each channel
    fp16_scales_opset=19,
)

# By name, the most exact first.
PRECISIONS = {precision.name: precision for precision in (FP32, FP16, BF16, INT8)}
FLOATING = tuple(name for name, precision in PRECISIONS.items() if not precision.quantized)
QUANTIZED = tuple(name for name, precision in PRECISIONS.items() if precision.quantized)
