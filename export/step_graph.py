"""One step of a run as a graph: guidance and the sampler's move, for latents that stay on a device.

It is the same for every sampler and guidance scale, since what differs is fed, row by row::

    output      = against + scale * (with - against)     of the rows of the prediction
    noise       = noise * exp(slope * variance + offset) where the model learns a variance
    (latent, memory_0, ...)     = move @ (latent, output, memory_0, ..., noise)

`runtime.sampling.step_table` makes the numbers. The product is a multiplication and a sum, since a
matmul may round to TF32; a term each would be a kernel each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx
import onnx_ir as ir

from ..runtime.bundle.manifest import Manifest
from ..runtime.sampling.step_table import MEMORIES, given, taken

OPSET = 18
TAKEN, GIVEN = taken(MEMORIES), given(MEMORIES)
LATENTS = tuple(name for name in TAKEN if name != "output")  # inputs of a latent's shape


def step_graph(manifest: Manifest) -> ir.Model:
    """The graph of one step of a model whose denoiser is in the manifest.

    Returns:
        A graph with the inputs latent, memory_0, ... and noise, float32 [row, channel, row,
        column]; prediction, float32 [row, output channel, row, column]; rows_with and
        rows_against, int32 [row]; scale, float32 [row, output channel, 1, 1]; move, float32
        [row, given * taken, 1, 1], a row's factors; where a variance is learned, deviation,
        float32 [row, 2, 1, 1]. Its outputs are next_latent, next_memory_0, ..., and kept_latent,
        which is next_latent once more: one of them lies where the denoiser reads.
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
        {_move(latent)}
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


def _move(latent: Sequence[int]) -> str:
    """The linear combinations of all that is taken, side by side."""
    terms = ["sized" if name == "noise" else name for name in TAKEN]
    rows, *shape = latent
    numbers = math.prod(shape)
    flat = ", ".join(f"flat_{name}" for name in GIVEN)
    return f"""
        beside = Concat<axis = 1>({", ".join(terms)})
        columns = Constant<value_ints = [{rows}, 1, {len(TAKEN)}, {numbers}]>()
        column = Reshape(beside, columns)
        factors = Constant<value_ints = [{rows}, {len(GIVEN)}, {len(TAKEN)}, 1]>()
        factor = Reshape(move, factors)
        product = Mul(factor, column)
        over = Constant<value_ints = [2]>()
        sums = ReduceSum<keepdims = 0>(product, over)
        {flat} = Split<axis = 1, num_outputs = {len(GIVEN)}>(sums)
        shape = Constant<value_ints = [{rows}, {", ".join(map(str, shape))}]>()
        {" ".join(f"next_{name} = Reshape(flat_{name}, shape)" for name in GIVEN)}
    """
