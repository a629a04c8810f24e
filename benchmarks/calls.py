"""What fewer denoiser calls cost: guided images of the demo by each method, beside all 50 calls.

The forecast, Taylor's series, solvers of fewer steps, and the caches of FORA and TaylorSeer, at 25,
17, 13, 10 and 8 calls, on the noise of 50-step DDIM. Every cell is kept in the work folder, so that
a run goes on where it was stopped; `--time` adds milliseconds of an image that is drawn alone, all
methods in turns, on a machine that does nothing else. `--quick` draws 256 images of what the bars
need, and says of each bar whether it is met. Needs the Debian package dataset-fashion-mnist for the
Fréchet distance to real images, and goes without where it is not there.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from fewer_calls.bars import MEDIAN_DB, cells_of_bars, judge_bars
from fewer_calls.cells import SCALE, STEPS, Cell, Figures, Judged, read_cell, write_cell
from fewer_calls.methods import ALL, CACHES, FORECAST, GROUP, METHODS, TAYLOR, Drawer
from fewer_calls.plot import plot_calls
from fewer_calls.timing import time_images
from record import RESULTS, record
from rich.console import Console
from rich.progress import track
from rich.table import Table

from pitstop import BackendUnavailable
from pitstop.calibration.pipeline import calibrate_bundle
from pitstop.calibration.recipe import Recipe
from pitstop.evaluation.accuracy.quality import Features, judge
from pitstop.evaluation.demo import SOURCE
from pitstop.evaluation.speed.torch_rows import open_torch
from pitstop.export.pipeline import export_bundle
from pitstop.models.training.fashion_mnist import FOLDER, read_test
from pitstop.runtime.backend import SessionOptions
from pitstop.runtime.bundle.folder import open_bundle
from pitstop.runtime.distance import latent_peak, psnr
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.settings import Settings

PITSTOP = [sys.executable, "-c", "from pitstop.cli import main; main(prog_name='pitstop')"]
INT8, TORCH = "int8", "torch"
CALLS = (50, 25, 17, 13, 10, 8)
IMAGES, QUICK_IMAGES = 1000, 256
PICTURES = RESULTS.parents[1] / "docs" / "images"
WORK = Path(tempfile.gettempdir()) / "pitstop-calls"
CHECKED = 4  # images that PyTorch draws too


@click.command()
@click.option("--work", type=click.Path(path_type=Path), default=WORK, help="Keeps all cells.")
@click.option("--images", type=int, help="1000 by default, 256 with --quick.")
@click.option("--calls", "asked", multiple=True, default=CALLS, show_default=True)
@click.option("--method", "methods", multiple=True, default=METHODS, show_default=True)
@click.option("--quick", is_flag=True, help="What the bars need alone.")
@click.option("--int8/--no-int8", default=True, help="Calibrate, and draw with int8 too.")
@click.option("--time", "rounds", default=0, help="Rounds of the timed stage; 0 leaves it out.")
@click.option("--backend", default="auto", show_default=True)
@click.option("--threads", type=int, help="Of PyTorch and the backend.")
@click.option("--data", type=click.Path(path_type=Path), default=FOLDER, show_default=True)
@click.option("--keep", is_flag=True, help="Write results/calls.json and docs/images/calls.png.")
def main(
    work: Path,
    images: int | None,
    asked: tuple[int, ...],
    methods: tuple[str, ...],
    quick: bool,
    int8: bool,
    rounds: int,
    backend: str,
    threads: int | None,
    data: Path,
    keep: bool,
) -> None:
    """Export, fit, draw, judge, time, print."""
    if threads:
        torch.set_num_threads(threads)
    images = images or (QUICK_IMAGES if quick else IMAGES)
    cells = cells_of_bars() if quick else _every_cell(methods, asked)
    cells = [cell for cell in cells if int8 or cell.precision != INT8]
    plain, fitted = _bundles(work, int8)
    options = SessionOptions(threads=threads)
    drawer = Drawer(plain, fitted, images, backend, options)
    done = _draw_all(work, drawer, cells, images, _real(data))
    timed = dict.fromkeys([*done, *(Cell(FORECAST, calls, INT8) for calls in MEDIAN_DB if int8)])
    times = _times(work, timed, rounds, backend, options) if rounds else _read_times(work)
    bars = judge_bars(done)
    _print(done, times)
    for bar in bars:
        click.echo(bar)
    for name, times_faster in _faster(times).items():
        click.echo(f"{name}: {times_faster:.2f}x the fastest PyTorch with all calls")
    plot = (PICTURES if keep else work) / "calls.png"
    plot_calls(done, times, plot)
    click.echo(plot)
    figures = {
        "images": images,
        "steps": STEPS,
        "sampler": "ddim",
        "cfg_scale": SCALE,
        "psnr_db_min_of_pytorch_to_the_graph": _against_torch(work, drawer, images),
        "cells": {cell.name: dataclasses.asdict(found) for cell, found in done.items()},
        "ms_per_image": times,
        "faster_than_pytorch": _faster(times),
        "bars": [dataclasses.asdict(bar) for bar in bars],
    }
    if keep:
        click.echo(record("calls", figures))


def _every_cell(methods: Sequence[str], asked: Sequence[int]) -> list[Cell]:
    fewer = [calls for calls in asked if calls < STEPS]
    cells = [Cell(ALL, STEPS), Cell(ALL, STEPS, INT8)]
    cells += [Cell(method, calls) for method in methods for calls in fewer]
    cells += [Cell(FORECAST, calls, INT8) for calls in fewer]
    of_bars = cells_of_bars() if set(methods) == set(METHODS) else []
    return list(dict.fromkeys([*cells, *of_bars]))


def _bundles(work: Path, int8: bool) -> tuple[Path, Path]:
    """The demo with Taylor's series in the place of a forecast, and with a forecast fitted."""
    plain, fitted = work / "plain", work / "fitted"
    work.mkdir(parents=True, exist_ok=True)
    if not plain.exists():
        assert export_bundle(SOURCE, plain, batch=2 * GROUP).passed
    if not fitted.exists():
        beside = work / "fitting"
        if not beside.exists():
            shutil.copytree(plain, beside)
        asked = [word for calls in CALLS[1:] for word in ("--calls", str(calls))]
        asked += ["--steps", str(STEPS), "--cfg-scale", f"{SCALE:g}", "--sampler", "ddim"]
        subprocess.run([*PITSTOP, "forecast", str(beside), *asked], check=True)
        beside.rename(fitted)
    if int8 and INT8 not in open_bundle(fitted).manifest.precisions:
        calibrate_bundle(fitted, Recipe(steps=STEPS, cfg_scale=SCALE))
    return plain, fitted


def _real(data: Path) -> Features | None:
    return judge(read_test(data).images.numpy()).features if data.is_dir() else None


def _draw_all(
    work: Path, drawer: Drawer, cells: Sequence[Cell], images: int, real: Features | None
) -> dict[Cell, Figures]:
    """The figures of all cells, those that are not yet known drawn now."""
    folder = work / "cells"
    folder.mkdir(exist_ok=True)
    done: dict[Cell, Figures] = {}
    references: dict[float, Judged] = {}
    for cell in track(cells, description=f"cells of {images} images"):
        found = read_cell(folder, cell, images)
        if found is None:
            if cell.cfg_scale not in references:
                references[cell.cfg_scale] = _reference(work, drawer, cell.cfg_scale, images, real)
            drawn = drawer.draw(cell)
            found = references[cell.cfg_scale].figures(drawn.latents, drawn.calls)
            write_cell(folder, cell, images, found)
            click.echo(f"{cell.name}: {json.dumps(dataclasses.asdict(found))}")
        done[cell] = found
    return done


def _reference(
    work: Path, drawer: Drawer, scale: float, images: int, real: Features | None
) -> Judged:
    """The images of all calls, by the fp32 graph."""
    path = _reference_path(work, scale, images)
    if not path.is_file():
        np.save(path, drawer.draw(Cell(ALL, STEPS, cfg_scale=scale)).latents)
    latents = np.load(path)
    label = drawer.pipeline(TAYLOR, "fp32").manifest.label
    labels = [index % label.classes for index in range(images)]
    return Judged(latents, labels, judge(latents).features, real)


def _reference_path(work: Path, scale: float, images: int) -> Path:
    return work / f"all-calls-cfg{scale:g}-{images}.npy"


def _against_torch(work: Path, drawer: Drawer, images: int) -> float | None:
    """The least PSNR of a few images of the fp32 graph to PyTorch's own."""
    path = _reference_path(work, SCALE, images)
    if not path.is_file():
        return None
    latents, theirs = np.load(path), drawer.draw_with_torch(CHECKED, SCALE)
    peak = latent_peak(theirs, "pixel")
    return min(psnr(one, other, peak) for one, other in zip(theirs, latents, strict=False))


def _times(
    work: Path, cells: Iterable[Cell], rounds: int, backend: str, options: SessionOptions
) -> dict[str, float]:
    """Milliseconds of an image that is drawn alone, of each cell and of PyTorch's ways.

    By a bundle of one guided image a call, whose forecasts are Taylor's: they cost the same.
    """
    alone = _alone(work)
    drawer = Drawer(alone, alone, 1, backend, options, group=1)
    ways: dict[str, tuple[Pipeline, Settings]] = {
        cell.name: drawer.way(cell)[:2] for cell in cells if cell.cfg_scale == SCALE
    }
    manifest = drawer.pipeline(TAYLOR, "fp32").manifest
    for compiled in (False, True):
        for precision in ("fp32", "bf16"):
            name = f"{TORCH} {'compile' if compiled else 'eager'} {precision}"
            try:
                session = open_torch(
                    SOURCE, manifest, precision, compiled=compiled, threads=options.threads
                )
                pipeline = Pipeline(manifest, session, "fp32")
                pipeline.draw(manifest.examples(1), [0], Settings(2))
            except BackendUnavailable as error:
                click.echo(f"{name}: {error}")
                continue
            ways[name] = pipeline, Settings(STEPS, "ddim", SCALE)
    times = time_images(ways, 1, rounds)
    (work / "times.json").write_text(json.dumps(times, indent=2) + "\n")
    return times


def _alone(work: Path) -> Path:
    """The demo for one guided image a call, calibrated in short: ranges do not change its speed."""
    alone = work / "alone"
    if not alone.exists():
        beside = work / "exporting"
        shutil.rmtree(beside, ignore_errors=True)
        assert export_bundle(SOURCE, beside, batch=2).passed
        calibrate_bundle(beside, Recipe(num=2, steps=4))
        beside.rename(alone)
    return alone


def _faster(times: Mapping[str, float]) -> dict[str, float]:
    """How many times the images a second of the fastest PyTorch, by each row of a forecast."""
    torchs = [ms for name, ms in times.items() if name.startswith(TORCH)]
    ours = {name: ms for name, ms in times.items() if name.startswith(FORECAST)}
    return {name: min(torchs) / ms for name, ms in ours.items()} if torchs else {}


def _read_times(work: Path) -> dict[str, float]:
    path = work / "times.json"
    times: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}
    return times


def _print(done: Mapping[Cell, Figures], times: Mapping[str, float]) -> None:
    table = Table(
        "method", "calls", "PSNR median / 5 %, dB", "agreement", "Fréchet", "to real", "ms"
    )
    for cell, found in sorted(done.items(), key=lambda item: (-item[0].calls, -item[1].psnr_db)):
        label = f"{cell.method} {cell.precision}" + (
            f", guidance {cell.cfg_scale:g}" if cell.cfg_scale != SCALE else ""
        )
        table.add_row(
            label if cell.method not in CACHES else f"{cell.method}, PyTorch",
            str(found.calls),
            f"{found.psnr_db:.1f} / {found.psnr_db_low:.1f}",
            f"{found.class_agreement:.3f}",
            _number(found.frechet),
            _number(found.frechet_real),
            _number(times.get(cell.name)),
        )
    for name in (name for name in times if name.startswith(TORCH)):
        table.add_row(name, str(STEPS), "", "", "", "", _number(times[name]))
    Console().print(table)


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}"


if __name__ == "__main__":
    main()
