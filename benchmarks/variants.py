"""One denoiser call of a model that went through different passes, the variants in turn.

Random weights, batch 2. A denoiser that was split runs with its modulations made before, as in the
loop.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx_ir as ir
from rich.progress import track

from pitstop.export.optimize import DENOISER, example_feeds, modulations, optimize
from pitstop.export.trace import load_source, manifest_for, trace
from pitstop.graphs.graph_file import write_graph
from pitstop.runtime.backend import SessionOptions
from pitstop.runtime.backends import import_backend
from pitstop.runtime.bundle.folder import GraphFile
from pitstop.runtime.bundle.manifest import CONDITIONER, GraphSpec
from pitstop.runtime.session import Array

BATCH = 2
OPTIONS = {
    "onnxruntime": SessionOptions(provider="CPUExecutionProvider"),
    "openvino": SessionOptions(),
}

Row = dict[str, float]
Variants = Mapping[str, Sequence[str]]
"""The names of the steps that run, by the name of the variant; the others are held to the first."""


def measure(preset: str, backend: str, variants: Variants, rounds: int) -> dict[str, Row]:
    """Time every variant of a preset: milliseconds, ratio to the first, bytes and nodes."""
    checkpoint = load_source(preset)
    feeds = example_feeds(manifest_for(checkpoint, preset, BATCH))
    traced = trace(checkpoint.model, BATCH)
    del checkpoint
    calls: dict[str, Callable[[], Any]] = {}
    rows: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, steps in variants.items():
            graphs = optimize(traced, feeds, steps).graphs
            spec, calls[name] = _open(graphs, Path(folder) / str(len(calls)), feeds, backend)
            rows[name] = {"weight_bytes": spec.weight_bytes, "nodes": sum(spec.nodes.values())}
            gc.collect()
        times = _interleave(calls, rounds, f"{preset} on {backend}")
    first = times[next(iter(variants))]
    for name, row in rows.items():
        row["ms_median"] = float(np.median(times[name]))
        row["ms_p10"], row["ms_p90"] = (float(np.percentile(times[name], p)) for p in (10, 90))
        row["ratio"] = float(np.median(np.array(first) / np.array(times[name])))
    return rows


def print_rows(title: str, rows: Mapping[str, Row]) -> None:
    click.echo(f"\n{title}: ms a call, median (p10 to p90), against the first, denoiser weights")
    for name, row in rows.items():
        spread = f"({row['ms_p10']:.1f} to {row['ms_p90']:.1f})"
        click.echo(
            f"  {name:37} {row['ms_median']:7.1f} {spread:20} {row['ratio']:.2f}x "
            f"{row['weight_bytes'] / 1e6:8.1f} MB  {row['nodes']} nodes"
        )


def _open(
    graphs: Mapping[str, ir.Model], folder: Path, feeds: Mapping[str, Array], backend: str
) -> tuple[GraphSpec, Callable[[], Any]]:
    """One denoiser call of a variant, as a function."""
    folder.mkdir()
    fed = dict(feeds)
    if CONDITIONER in graphs:
        modulation = modulations(graphs[CONDITIONER], feeds)
        fed = {"latent": feeds["latent"], "modulation": modulation}
    spec = write_graph(graphs[DENOISER], folder, DENOISER)
    session = import_backend(backend).open_graph(
        GraphFile(folder / spec.path, spec), OPTIONS[backend]
    )
    return spec, lambda: session.run(fed)


def _interleave(
    calls: Mapping[str, Callable[[], Any]], rounds: int, what: str
) -> dict[str, list[float]]:
    """Milliseconds of each call, the variants in turn, after one call each to warm up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for name in track(list(calls), description=f"{what}: warm-up"):
        calls[name]()
    for _ in track(range(rounds), description=what):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            times[name].append(1000 * (time.perf_counter() - started))
    return times
