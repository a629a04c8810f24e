"""What each pass is worth to an engine, counted by TensorRT-RTX's builder without a GPU.

The denoiser of a preset with random weights, batch 2, is traced, rewritten, lowered to fp16 and
built for one compute capability, with the passes of a target and without one of them after the
other. Counted are the kernels of a call and of a block in the middle, how many of them only move
data, and the bytes that they read and write, each tensor that one names whole. Nothing is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
import numpy as np
import onnx_ir as ir
from record import record

from pitstop.export.engine_cost import Cost, built_kernels, by_block, cost_of
from pitstop.export.lowering.lower import LOW, lower
from pitstop.export.optimize import SPLIT, choose_steps, example_feeds, optimize
from pitstop.export.target import find_target
from pitstop.export.trace import load_source, manifest_for, trace

BATCH, TARGET = 2, "tensorrt-rtx"
PRESETS = ("fashion", "pit-s-2", "pit-b-2", "pit-l-2", "dit-s-2")
PASSES = ("fold_bridge", "window_major", "fuse_attention", "flat_heads", "simplify")


def variants() -> dict[str, list[str]]:
    """Which steps run, by what a row is called."""
    return {
        "none": [SPLIT],
        "all, target portable": choose_steps("portable", ()),
        f"all, target {TARGET}": choose_steps(TARGET, ()),
        **{f"without {name}": choose_steps(TARGET, (name,)) for name in PASSES},
    }


@click.command()
@click.option("--preset", "presets", multiple=True, default=PRESETS, show_default=True)
@click.option("--capability", default="8.9", show_default=True)
@click.option("--keep", is_flag=True, help="Write the figures to results/engine_cost.json.")
def main(presets: tuple[str, ...], capability: str, keep: bool) -> None:
    """Trace, rewrite, build, count, print."""
    figures = {}
    for preset in presets:
        figures[preset] = {
            name: count(preset, steps, capability) for name, steps in variants().items()
        }
        for name, row in figures[preset].items():
            click.echo(f"{preset}, {name}: {row['call']}, a block {row['block']}")
    if keep:
        facts = {"batch": BATCH, "precision": "fp16", "capability": capability}
        click.echo(record("engine_cost", {**facts, "presets": figures}))


def count(preset: str, steps: Sequence[str], capability: str) -> dict[str, Any]:
    """Of a call and of a block in the middle: kernels, moves, bytes and FLOPs."""
    kernels = built_kernels(denoiser(preset, steps), capability)
    blocks = by_block(kernels)
    names = [name for name in blocks if name]
    return {
        "call": figures_of(cost_of(kernels)),
        "block": figures_of(cost_of(blocks[names[len(names) // 2]])),
    }


def denoiser(preset: str, steps: Sequence[str]) -> ir.Model:
    """The denoiser of a preset in fp16, after these steps."""
    checkpoint = load_source(preset)
    manifest = manifest_for(checkpoint, preset, BATCH)
    traced = trace(checkpoint.model, BATCH, find_target(TARGET).opset)
    wide = optimize(traced, example_feeds(manifest), steps).graphs["denoiser.fp32"]
    return lower(wide, LOW["fp16"], [_noise(wide)]).model


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
        "activation_megabytes": round(cost.activation_bytes / 1e6, 2),
        "constant_megabytes": round(cost.constant_bytes / 1e6, 2),
        "gigaflops": round(cost.flops / 1e9, 3),
    }


if __name__ == "__main__":
    main()
