"""Images a second with 17 of 50 calls, beside the fastest PyTorch of all 50, in turns.

PiT-S/2 and DiT-S/2 at 256 px with random weights, one guided image at a time, on the best backend
here in fp32 and int8 (calibrated on two short trajectories: ranges do not change its speed), and
PyTorch eager and compiled in fp32 and bf16. What is forecast takes Taylor's factors, which cost as
much as fitted ones. What an image costs outside the denoiser's session, its conditioner included,
is timed by itself; how far the times are off a line over calls is told too. Run it on an idle
machine; `--quick` is the demo in a few minutes, to try the script.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from fewer_calls.timing import time_images
from record import record

from pitstop import BackendUnavailable
from pitstop.calibration.pipeline import calibrate_bundle
from pitstop.calibration.recipe import Recipe
from pitstop.evaluation.speed.timed_run import TimedSession
from pitstop.evaluation.speed.torch_rows import open_torch
from pitstop.export.pipeline import export_bundle
from pitstop.runtime.backend import SessionOptions
from pitstop.runtime.bundle.folder import open_bundle
from pitstop.runtime.machine.cpu import EXACT_INT8, cpu_features
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.settings import Settings

PRESETS = ("pit-s-2", "dit-s-2")
RECIPE = Recipe(num=2, steps=4)
STEPS, FEWER = 50, 17
CALLS = (STEPS, 25, FEWER, 13)
BATCH = 2  # one guided image
IMAGES = 5  # that what is outside of the denoiser is timed on
MOST_OUTSIDE = 0.03  # of an image's time with 17 calls
BARS = {"VNNI": 5.0, "AVX2 alone": 3.5}  # times the images a second


@click.command()
@click.option("--preset", "presets", multiple=True, default=PRESETS, show_default=True)
@click.option("--precision", "precisions", multiple=True, default=("fp32", "int8"))
@click.option("--rounds", default=5, show_default=True)
@click.option("--quick", is_flag=True, help="The demo, in one round.")
@click.option("--torch/--no-torch", default=True)
@click.option("--threads", type=int, help="Of PyTorch and the backend.")
@click.option("--keep", is_flag=True, help="Write the figures to results/calls_speed.json.")
def main(
    presets: tuple[str, ...],
    precisions: tuple[str, ...],
    rounds: int,
    quick: bool,
    torch: bool,
    threads: int | None,
    keep: bool,
) -> None:
    """Export, calibrate, time, print."""
    figures = {}
    for preset in ("fashion",) if quick else presets:
        with tempfile.TemporaryDirectory() as folder:
            bundle = Path(folder) / "bundle"
            assert export_bundle(preset, bundle, target="openvino", batch=BATCH).passed
            if "int8" in precisions:
                calibrate_bundle(bundle, RECIPE)
            ways = _ours(bundle, precisions, threads)
            ways |= _torchs(preset, bundle, threads) if torch else {}
            figures[preset] = _figures(time_images(ways, 1, 1 if quick else rounds))
            figures[preset]["share_outside_the_denoiser"] = {
                name: _outside(*way) for name, way in ways.items() if name.endswith(f" {FEWER}")
            }
        click.echo(f"{preset}: {json.dumps(figures[preset], indent=2)}")
    for preset, found in figures.items():
        for promise in _bars(found):
            click.echo(f"{preset}: {promise}")
    if keep:
        click.echo(record("calls_speed", figures))


def _ours(
    bundle: Path, precisions: tuple[str, ...], threads: int | None
) -> dict[str, tuple[Pipeline, Settings]]:
    """The bundle in each precision at each number of calls."""
    ways = {}
    for precision in precisions:
        options = SessionOptions(threads=threads)
        pipeline = Pipeline.from_bundle(bundle, precision=precision, options=options)
        for calls in CALLS:
            ways[f"{precision} {calls}"] = pipeline, Settings(STEPS, "ddim", calls=calls)
    return ways


def _torchs(preset: str, bundle: Path, threads: int | None) -> dict[str, tuple[Pipeline, Settings]]:
    """PyTorch in every way that runs here, with all calls."""
    manifest = open_bundle(bundle).manifest
    ways = {}
    for compiled in (False, True):
        for precision in ("fp32", "bf16"):
            name = f"torch {'compile' if compiled else 'eager'} {precision}"
            session = open_torch(preset, manifest, precision, compiled=compiled, threads=threads)
            pipeline = Pipeline(manifest, session, "fp32")
            try:
                pipeline.draw(manifest.examples(1), [0], Settings(2))
            except BackendUnavailable as error:
                click.echo(f"{name}: {error}")
                continue
            ways[name] = pipeline, Settings(STEPS, "ddim")
    return ways


def _figures(times: Mapping[str, float]) -> dict[str, Any]:
    """Milliseconds of an image, and what follows from them."""
    torchs = [ms for name, ms in times.items() if name.startswith("torch")]
    ours = {name: ms for name, ms in times.items() if name.endswith(f" {FEWER}")}
    return {
        "ms_per_image": times,
        "faster_than_pytorch": {name: min(torchs) / ms for name, ms in ours.items()}
        if torchs
        else None,
        "most_off_a_line_over_calls": {
            name.split()[0]: _off_the_line(times, name.split()[0]) for name in ours
        },
    }


def _off_the_line(times: Mapping[str, float], precision: str) -> float:
    """The largest distance of a time from the line through all, over that time."""
    measured = np.array([times[f"{precision} {calls}"] for calls in CALLS])
    line = np.polyval(np.polyfit(CALLS, measured, 1), CALLS)
    return float(np.max(np.abs(line - measured) / measured))


def _outside(pipeline: Pipeline, settings: Settings) -> float:
    """The share of an image's time that is not the denoiser's, the median of a few images."""
    shares = []
    for _ in range(IMAGES):
        session = TimedSession(pipeline.session, time.perf_counter)
        timed = Pipeline(
            pipeline.manifest, session, pipeline.precision, conditioner=pipeline.conditioner
        )
        start = time.perf_counter()
        timed.draw(pipeline.manifest.examples(1), [0], settings)
        shares.append(1 - sum(session.take_calls()) / (time.perf_counter() - start))
    return float(np.median(shares))


def _bars(found: Mapping[str, Any]) -> list[str]:
    """Each promise, with what was found; of the CPU's class that is at hand alone."""
    vnni = any(name in cpu_features() for name in EXACT_INT8)
    here = "VNNI" if vnni else "AVX2 alone"
    said = [f"a CPU with {name}: not measured" for name in BARS if name != here]
    if found["faster_than_pytorch"]:
        best = max(found["faster_than_pytorch"].values())
        met = "met" if best >= BARS[here] else "NOT MET"
        said.append(f"a CPU with {here}, at least {BARS[here]}x: {best:.2f}x, {met}")
    for name, share in found["share_outside_the_denoiser"].items():
        met = "met" if share <= MOST_OUTSIDE else "NOT MET"
        said.append(f"{name} calls, outside the denoiser at most 3 %: {share:.1%}, {met}")
    return said


if __name__ == "__main__":
    main()
