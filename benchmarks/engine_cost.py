"""What an engine's kernels cost, by target, precision, pass and GPU, counted without one.

The denoiser of a preset with random weights, batch 2, is traced, rewritten, lowered or quantized
and built by TensorRT-RTX for a compute capability. Counted are the kernels of a call and of a block
in the middle, how many only move data or only quantize, in which type they multiply, and the bytes
that they read and write, each tensor that one names whole. Beside them stand the estimates of
`pitstop.export.device_floor`. Nothing is run, and the ranges of int8 are those of one random call:
kernels do not depend on them.

Rows are appended to a file as they are counted, and one that is there is not counted again.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx_ir as ir
from engine_cost_tables import tables
from record import RESULTS, record

from pitstop.calibration.qdq.placement import Placement, find_sites
from pitstop.calibration.qdq.quantize import quantize
from pitstop.export.device_floor import devices_of, floor
from pitstop.export.engine_cost import Cost, built_kernels, by_block, cost_of
from pitstop.export.lowering.kept_fp32 import rules_for
from pitstop.export.lowering.lower import LOW, lower
from pitstop.export.optimize import SPLIT, choose_steps, example_feeds, optimize
from pitstop.export.target import find_target
from pitstop.export.trace import load_source, manifest_for, trace
from pitstop.graphs.graph_file import run_graph, with_outputs
from pitstop.runtime.bundle.precision import INT8

BATCH, TARGET = 2, "tensorrt-rtx"
ENGINE_TARGETS = ("tensorrt10", "tensorrt11", "tensorrt-rtx")
PRESETS = ("fashion", "pit-s-2", "dit-s-2", "edt-s-2", "pit-b-2", "pit-l-2")
CAPABILITIES = ("8.6", "8.9", "12.0")
PRECISIONS = ("fp16", "int8", "bf16", "fp32")
CLOSELY = ("8.9", "fp16")  # where passes are counted one by one
BY_PASS = ("pit-s-2", "dit-s-2")  # whose passes are
LARGEST = "pit-l-2"  # takes minutes a build: fp16 and int8 alone
LARGE = ("pit-b-2", LARGEST)  # which have the blocks of pit-s-2: int8 by default alone
# int8 with what else is quantized, beside what is by default.
PLACEMENTS = {"int8": Placement(), "int8 --attention": Placement(attention=True)}
ALL = f"all of {', '.join(ENGINE_TARGETS)}"
PORTABLE, NONE = "all of portable", f"none but {SPLIT}"
ORIN = {"8.6": "8.7"}  # TensorRT-RTX builds nothing for Orin; its nearest relative stands in


@dataclass(frozen=True)
class Case:
    """An engine whose kernels are counted."""

    preset: str
    passes: str
    precision: str
    capability: str


def variants() -> dict[str, list[str]]:
    """Which steps run, by what a row is called."""
    every = choose_steps(TARGET, ())
    assert all(choose_steps(name, ()) == every for name in ENGINE_TARGETS)
    return {
        ALL: every,
        PORTABLE: choose_steps("portable", ()),
        NONE: [SPLIT],
        **{f"without {name}": choose_steps(TARGET, (name,)) for name in every if name != SPLIT},
    }


def cases(presets: Sequence[str]) -> Iterator[Case]:
    """Preset by preset, so that each is traced once."""
    capability, precision = CLOSELY
    for preset in presets:
        for passes in variants() if preset in BY_PASS else (ALL,):
            yield Case(preset, passes, precision, capability)
        for other in PLACEMENTS if preset not in LARGE else ("int8",):
            yield Case(preset, ALL, other, capability)
        if preset in BY_PASS:
            yield Case(preset, PORTABLE, "int8", capability)
        for other in PRECISIONS if preset != LARGEST else PRECISIONS[:2]:
            for each in CAPABILITIES:
                yield Case(preset, ALL, other, each)


@click.command()
@click.option("--preset", "presets", multiple=True, default=PRESETS, show_default=True)
@click.option(
    "--rows",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path(tempfile.gettempdir()) / "pitstop-engine-cost.jsonl",
    show_default=True,
    help="A file of rows, which is added to; delete it when pitstop or the builder changes.",
)
@click.option("--keep", is_flag=True, help="Write the figures to results/engine_cost.json.")
def main(presets: tuple[str, ...], rows: Path, keep: bool) -> None:
    """Trace, rewrite, build, count, print Markdown."""
    found = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    for case in dict.fromkeys(cases(presets)):
        if any(row["case"] == asdict(case) for row in found):
            continue
        found.append({"case": asdict(case), **count(case)})
        with rows.open("a") as file:
            file.write(json.dumps(found[-1]) + "\n")
        click.echo(f"{case}: {found[-1]['call']}", err=True)
    if keep:
        path = record("engine_cost", {"batch": BATCH, "rows": found})
        click.echo(f"{path.relative_to(RESULTS.parent)}", err=True)
    click.echo(tables(found))


def count(case: Case) -> dict[str, Any]:
    """Of a call and of a block in the middle, and the estimates."""
    kernels = built_kernels(denoiser(case), case.capability)
    blocks = by_block(kernels)
    names = [name for name in blocks if name.startswith("blocks.")]  # EDT has others between
    orin = ORIN.get(case.capability)
    devices = [*devices_of(case.capability), *(devices_of(orin) if orin else ())]
    return {
        "call": figures_of(cost_of(kernels)),
        "block": figures_of(cost_of(blocks[names[len(names) // 2]])),
        "estimated_ms": {
            device.name: round(1e3 * floor(kernels, device).seconds, 3) for device in devices
        },
    }


def denoiser(case: Case) -> ir.Model:
    """The denoiser in a precision, after the steps."""
    wide = rewritten(case.preset, case.passes)
    if case.precision == "fp32":
        return wide
    if case.precision in LOW:
        return lowered(wide, case.passes, case.precision)
    target = target_of(case.passes)
    sites = find_sites(wide.graph, PLACEMENTS[case.precision].settled(target)).found
    watched = with_outputs(wide, list(dict.fromkeys(site.tensor for site in sites)))
    ranges = {
        name: float(np.abs(seen).max()) for name, seen in run_graph(watched, _noise(wide)).items()
    }
    constants = wide.graph.initializers.items()
    weights = {name: one.const_value for name, one in constants if one.const_value is not None}
    base = lowered(wide, case.passes, "fp16")
    return quantize(base, weights, sites, ranges, INT8, INT8)


def target_of(passes: str) -> str:
    return "portable" if passes == PORTABLE else TARGET


def lowered(wide: ir.Model, passes: str, precision: str) -> ir.Model:
    """In a floating-point precision below fp32, as the target has it."""
    rules = rules_for(LOW[precision], find_target(target_of(passes)))
    return lower(wide, LOW[precision], [_noise(wide)], rules=rules).model


@lru_cache(maxsize=2)
def rewritten(preset: str, passes: str) -> ir.Model:
    """The fp32 denoiser after the steps."""
    traced, feeds = _traced(preset)
    return optimize(traced, feeds, variants()[passes]).graphs["denoiser.fp32"]


@lru_cache(maxsize=1)
def _traced(preset: str) -> tuple[ir.Model, Any]:
    checkpoint = load_source(preset)
    feeds = example_feeds(manifest_for(checkpoint, preset, BATCH))
    return trace(checkpoint.model, BATCH, find_target(TARGET).opset), feeds


def _noise(model: ir.Model) -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {
        str(value.name): random.standard_normal(tuple(value.shape or ())).astype(np.float32)
        for value in model.graph.inputs
    }


def figures_of(cost: Cost) -> dict[str, Any]:
    return {
        "kernels": cost.kernels,
        "moves": cost.moves,
        "quantizations": cost.quantizations,
        "matmuls": dict(cost.matmuls),
        "activation_megabytes": round(cost.activation_bytes / 1e6, 2),
        "constant_megabytes": round(cost.constant_bytes / 1e6, 2),
        "gigaflops": round(cost.flops / 1e9, 3),
    }


if __name__ == "__main__":
    main()
