"""One step of a run as a graph: guidance and the sampler's move, for latents that stay on a device.

It is the same for every sampler and guidance scale, since what differs is fed, row by row::

    output      = against + scale * (with - against)     of the rows of the prediction
    noise       = noise * exp(slope * variance + offset) where the model learns a variance
    (latent, memory_0, memory_1) = move @ (latent, output, memory_0, memory_1, noise)

`runtime.sampling.step_table` makes the numbers. The sums are written out, since a matmul may round
to TF32.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from ..runtime.bundle.manifest import Manifest
from ..runtime.sampling.step_table import GIVEN, TAKEN

OPSET = 18
LATENTS = tuple(name for name in TAKEN if name != "output")  # inputs of a latent's shape


def step_graph(manifest: Manifest) -> ir.Model:
    """The graph of one step of a model whose denoiser is in the manifest.

    Returns:
        A graph with the inputs latent, memory_0, memory_1 and noise, float32 [row, channel, row,
        column]; prediction, float32 [row, output channel, row, column]; rows_with and
        rows_against, int32 [row]; scale, float32 [row, output channel, 1, 1]; move, float32
        [row, 15, 1, 1], a row's 3 x 5 factors; where a variance is learned, deviation, float32
        [row, 2, 1, 1]. Its outputs are next_latent, next_memory_0, next_memory_1, and
        kept_latent, which is next_latent once more: one of them lies where the denoiser reads.
    """
    rows = manifest.batch
    latent = [rows, *manifest.latent_shape]
    [prediction] = manifest.denoiser(manifest.precisions[0]).outputs
    channels = prediction.shape[1]
    inputs = [
        *(f"float{latent} {name}" for name in LATENTS),
        f"float{list(prediction.shape)} prediction",
        f"int32[{rows}] rows_with, int32[{rows}] rows_against",
        f"float[{rows}, {channels}, 1, 1] scale",
        f"float[{rows}, {len(GIVEN) * len(TAKEN)}, 1, 1] move",
        *([f"float[{rows}, 2, 1, 1] deviation"] if manifest.learn_sigma else []),
    ]
    outputs = [*(f"float{latent} next_{name}" for name in GIVEN), f"float{latent} kept_latent"]
    text = f"""
    <ir_version: 10, opset_import: ["": {OPSET}]>
    step ({", ".join(inputs)}) => ({", ".join(outputs)})
    {{
        {_GUIDANCE}
        {_LEARNED if manifest.learn_sigma else _FIXED}
        {_move()}
        kept_latent = Identity(next_latent)
    }}
    """
    return ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text)))


_GUIDANCE = """
    guiding = Gather<axis = 0>(prediction, rows_with)
    against = Gather<axis = 0>(prediction, rows_against)
    gap = Sub(guiding, against) scaled = Mul(scale, gap) guided = Add(against, scaled)
"""
_FIXED = "output = Identity(guided) sized = Identity(noise)"
_LEARNED = """
    output, variance = Split<axis = 1, num_outputs = 2>(guided)
    slope, offset = Split<axis = 1, num_outputs = 2>(deviation)
    sloped = Mul(slope, variance) logarithm = Add(sloped, offset)
    size = Exp(logarithm) sized = Mul(noise, size)
"""


def _move() -> str:
    """The linear combinations, one term after the other."""
    taken = ["sized" if name == "noise" else name for name in TAKEN]
    shares = [[f"share_{given}_{name}" for name in taken] for given in GIVEN]
    every = ", ".join(share for row in shares for share in row)
    lines = [f"{every} = Split<axis = 1, num_outputs = {len(GIVEN) * len(TAKEN)}>(move)"]
    for given, row in zip(GIVEN, shares, strict=True):
        terms = [share.replace("share", "term", 1) for share in row]
        for term, share, name in zip(terms, row, taken, strict=True):
            lines.append(f"{term} = Mul({share}, {name})")
        lines.append(f"next_{given} = Sum({', '.join(terms)})")
    return "\n".join(lines)
