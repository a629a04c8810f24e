"""Do the sums of an int8 matmul fit in fp16, and who scales them: it, or a kernel behind it?

Two questions. The demo is calibrated, and the largest whole number that each of its int8 matmuls
sums is taken over the golden calls. And one int8 matmul in fp16 is built by TensorRT-RTX twice,
with a scale for each output channel, and with one for all and factors behind: the constants that
stand in its plan say what is left to multiply in fp16. Nothing is run on a GPU.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper
from record import record

from pitstop.calibration.pipeline import calibrate_bundle
from pitstop.calibration.recipe import Recipe
from pitstop.export.engines.process import build_apart
from pitstop.export.optimize import denoiser_calls
from pitstop.export.pipeline import export_bundle
from pitstop.graphs.graph_file import read_graph, run_calls, with_outputs
from pitstop.runtime.builder import BuildRequest
from pitstop.runtime.bundle.folder import Bundle, open_bundle
from pitstop.runtime.bundle.goldens import read_goldens

FP16_MAX = 65504
RECIPE = Recipe(num=8, steps=20)
CAPABILITY, ROWS, INNER, COLUMNS = "8.9", 512, 384, 1536
INPUT_SCALE = 0.05
LOOKED_AT = 32  # numbers of a vector

Array = npt.NDArray[Any]


@click.command()
@click.option("--keep", is_flag=True, help="Write the figures to results/int8_sums.json.")
def main(keep: bool) -> None:
    """Calibrate, run, build, look, print."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        export_bundle("fashion", bundle, precisions=["fp32", "fp16"])
        calibrate_bundle(bundle, RECIPE)
        sums = largest_sums(open_bundle(bundle))
        plans = {form: constants_in_plan(form, Path(folder)) for form in ("channels", "shared")}
    beyond = sum(largest > FP16_MAX for largest in sums.values())
    for name, largest in sums.items():
        click.echo(f"{name}: {largest:,.0f}")
    click.echo(f"{beyond} of {len(sums)} reach beyond {FP16_MAX}")
    click.echo(f"in the plan: {plans}")
    if keep:
        figures = {"sums": sums, "beyond_fp16": beyond, "constants_in_plan": plans}
        click.echo(record("int8_sums", figures))


def largest_sums(bundle: Bundle) -> dict[str, float]:
    """Of int8 products, for each linear of an int8 denoiser, over the golden calls."""
    graphs = {
        name: read_graph(bundle.path(spec.path)) for name, spec in bundle.manifest.graphs.items()
    }
    calls = denoiser_calls(graphs, read_goldens(bundle.path(bundle.manifest.goldens)))
    low = graphs["denoiser.int8"]
    steps = {
        str(node.outputs[0].name): _scale(node.inputs[0]) * _scale(node.inputs[1])
        for node in low.graph
        if node.op_type == "MatMul" and str(node.outputs[0].name).endswith("_unscaled")
    }
    found = dict.fromkeys(steps, 0.0)
    for answer in run_calls(with_outputs(low, list(steps)), calls):
        for name, values in answer.items():
            found[name] = max(found[name], float(np.abs(values).max()) / steps[name])
    return {name.removesuffix("_unscaled"): largest for name, largest in found.items()}


def _scale(value: ir.Value | None) -> float:
    """Of what a DequantizeLinear made."""
    scale = value.producer().inputs[1].const_value
    return float(scale.numpy())


def constants_in_plan(form: str, folder: Path) -> dict[str, bool]:
    """Which fp16 vectors of an int8 matmul stand in its engine.

    Args:
        form: ``channels``: a scale for each; ``shared``: one, and factors behind the matmul.
        folder: Where it is built.
    """
    random = np.random.default_rng(0)
    weight = random.integers(-127, 128, (INNER, COLUMNS)).astype(np.int8)
    factor = random.uniform(1, 2, COLUMNS).astype(np.float16)
    shared = np.float16(0.001)
    scales = factor * shared if form == "channels" else shared
    path, plan = folder / f"{form}.onnx", folder / f"{form}.plan"
    path.write_bytes(_matmul(weight, np.asarray(scales), factor, form))
    request = BuildRequest(
        "tensorrt-rtx",
        str(path),
        str(plan),
        str(folder / "timing.cache"),
        str(folder / "layers.txt"),
        compute_capabilities=(CAPABILITY,),
    )
    build_apart(request, lambda name, done, steps: True)
    written = plan.read_bytes()
    wide = np.asarray(scales, np.float32)
    vectors = {
        "scales of the channels": wide,
        "product with the input's scale": wide * np.float32(np.float16(INPUT_SCALE)),
        "factors": factor,
    }
    return {
        name: vector.shape == (COLUMNS,) and _stands_in(written, vector)
        for name, vector in vectors.items()
    }


def _stands_in(plan: bytes, vector: Array) -> bool:
    """Whether fp16 numbers within a hundredth of a vector's first ones stand in a plan."""
    halves = np.frombuffer(plan[: len(plan) // 2 * 2], np.float16).astype(np.float32)
    places = len(halves) - COLUMNS
    same = np.ones(places, bool)
    for index, number in enumerate(vector[:LOOKED_AT]):
        same &= np.isclose(halves[index : index + places], number, rtol=0.01, atol=0.0)
    return bool(same.any())


def _matmul(weight: Array, scales: Array, factor: Array, form: str) -> bytes:
    """A quantized input times a quantized weight, and a bias."""
    constants = {
        "weight": weight,
        "scales": scales,
        "zeros": np.zeros(scales.shape, np.int8),
        "step": np.asarray(INPUT_SCALE, np.float16),
        "zero": np.asarray(0, np.int8),
        "factor": factor,
        "bias": np.ones(COLUMNS, np.float16),
    }
    behind = ("Mul", ["a", "factor"]) if form == "shared" else ("Identity", ["a"])
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("QuantizeLinear", ["h", "step", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["d"]),
        helper.make_node(
            "DequantizeLinear",
            ["weight", "scales", "zeros"],
            ["w"],
            **({"axis": 1} if scales.ndim else {}),
        ),
        helper.make_node("MatMul", ["d", "w"], ["a"]),
        helper.make_node(*behind, ["b"]),
        helper.make_node("Add", ["b", "bias"], ["c"]),
        helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
    ]
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [ROWS, side])
        for name, side in (("x", INNER), ("y", COLUMNS))
    )
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "matmul", [x], [y], tensors)
    opset = [helper.make_opsetid("", 19)]
    made: bytes = helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    return made


if __name__ == "__main__":
    main()
