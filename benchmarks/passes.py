"""What each graph pass is worth: one denoiser call of PiT-S/2 and PiT-B/2, interleaved.

Random weights, batch 2, ONNX Runtime on the CPU. Each pass alone and all together against none;
a denoiser that was split runs with its modulations made before, as in the loop.
"""

from __future__ import annotations

import gc
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from record import record
from rich.progress import track

from pitstop.export.folding import DENOISER, choose_steps, example_feeds, fold
from pitstop.export.graph_file import write_graph
from pitstop.export.trace import load_source, manifest_for, trace
from pitstop.runtime.backend import SessionOptions
from pitstop.runtime.backends import import_backend
from pitstop.runtime.manifest import CONDITIONER

BATCH = 2
VARIANTS = {
    "none": [],
    "fold_bridge": ["fold_bridge"],
    "window_major": ["window_major"],
    "fuse_attention": ["fuse_attention"],
    "fuse_attention, multi_head_attention": ["fuse_attention", "multi_head_attention"],
    "simplify": ["simplify"],
    "split": ["split"],
    "all, target portable": choose_steps("portable", ()),
    "all, target onnxruntime": choose_steps("onnxruntime", ()),
}


@click.command()
@click.option("--preset", "presets", multiple=True, default=["pit-s-2", "pit-b-2"])
@click.option("--rounds", default=20, show_default=True, help="Calls of each variant, in turn.")
@click.option("--keep", is_flag=True, help="Write the figures to results/passes.json.")
def main(presets: tuple[str, ...], rounds: int, keep: bool) -> None:
    """Export each variant, time them in turn, print a table."""
    figures = {preset: _measure(preset, rounds) for preset in presets}
    for preset, rows in figures.items():
        click.echo(f"\n{preset}: ms a call, median (p10 to p90), against none, denoiser weights")
        for name, row in rows.items():
            spread = f"({row['ms_p10']:.1f} to {row['ms_p90']:.1f})"
            click.echo(
                f"  {name:37} {row['ms_median']:7.1f} {spread:20} {row['ratio_to_none']:.2f}x "
                f"{row['weight_bytes'] / 1e6:8.1f} MB  {row['nodes']} nodes"
            )
    if keep:
        command = "python benchmarks/passes.py --keep"
        click.echo(record("passes", command, {"batch": BATCH, "rounds": rounds, **figures}))


def _measure(preset: str, rounds: int) -> dict[str, dict[str, float]]:
    checkpoint = load_source(preset)
    manifest = manifest_for(checkpoint, preset, BATCH)
    feeds = example_feeds(manifest)
    traced = trace(checkpoint.model, BATCH)
    del checkpoint
    with tempfile.TemporaryDirectory() as folder:
        calls, rows = {}, {}
        for name, steps in VARIANTS.items():
            graphs = fold(traced, feeds, steps).graphs
            calls[name] = _open(graphs, Path(folder) / str(len(calls)), feeds)
            spec = calls[name].spec
            rows[name] = {"weight_bytes": spec.weight_bytes, "nodes": sum(spec.nodes.values())}
            gc.collect()
        times = _interleave(calls, rounds, preset)
    for name, row in rows.items():
        row["ms_median"] = float(np.median(times[name]))
        row["ms_p10"], row["ms_p90"] = (float(np.percentile(times[name], p)) for p in (10, 90))
        row["ratio_to_none"] = float(np.median(np.array(times["none"]) / np.array(times[name])))
    return rows


def _open(graphs, folder: Path, feeds):
    """One denoiser call of a variant, as a function."""
    folder.mkdir()
    specs = {name: write_graph(model, folder, name) for name, model in graphs.items()}
    backend = import_backend("onnxruntime")
    options = SessionOptions(provider="CPUExecutionProvider")
    fed = dict(feeds)
    if CONDITIONER in specs:
        spec = specs[CONDITIONER]
        conditioner = backend.open_graph(folder / spec.path, spec, options)
        rows = spec.inputs[0].shape
        padded = {name: np.resize(feeds[name], rows) for name in ("timestep", "label")}
        fed = {
            "latent": feeds["latent"],
            "modulation": conditioner.run(padded)["modulation"][:BATCH],
        }
        conditioner.close()
    spec = specs[DENOISER]
    session = backend.open_graph(folder / spec.path, spec, options)

    def call() -> None:
        session.run(fed)

    call.spec = spec
    return call


def _interleave(calls, rounds: int, preset: str) -> dict[str, list[float]]:
    """Milliseconds of each call, the variants in turn, after one call each to warm up."""
    times = {name: [] for name in calls}
    for name in track(list(calls), description=f"{preset} warm-up"):
        calls[name]()
    for _ in track(range(rounds), description=preset):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            times[name].append(1000 * (time.perf_counter() - started))
    return times


if __name__ == "__main__":
    main()
