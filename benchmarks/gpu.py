"""One denoiser step and one image on a CUDA GPU: PyTorch beside every backend that works there.

Random weights. Each model is exported once for each batch; a batch of 2 is one guided image. All
rows of a batch are open at once and timed in turn, so that what the machine does meanwhile falls on
all alike; a row that cannot be opened says why. A step is one denoiser call with its arrays on the
host, as `compare` makes it; an image is a whole run as `generate` makes it, in which a backend may
keep the latents on the GPU. Memory is the most that the whole GPU held more than before, from
opening a row to the end of its first image; engines are built in another process, before.

With ``--tiny`` the demo's model, few calls and no GPU: that shows that the script runs, and its
figures mean nothing.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from record import record
from rich.progress import track

from pitstop import PitstopError
from pitstop.export.pipeline import export_bundle
from pitstop.export.trace import load_source
from pitstop.runtime.backend import SessionOptions
from pitstop.runtime.backends import load_backend
from pitstop.runtime.bundle.folder import open_bundle
from pitstop.runtime.distance import relative_l2
from pitstop.runtime.machine.driver import read_driver
from pitstop.runtime.machine.nvidia import read_nvidia
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.condition import stack

SIZES = ("s", "b", "l", "xl")
PRESETS = [f"pit-{size}-2{suffix}" for suffix in ("", "-512") for size in SIZES]
BATCHES = (2, 16)
STEPS = 50
# Name of the row, backend, provider.
BACKENDS = (
    ("onnxruntime CUDA", "onnxruntime", "CUDAExecutionProvider"),
    ("onnxruntime TensorRT", "onnxruntime", "TensorrtExecutionProvider"),
    ("onnxruntime TensorRT-RTX", "onnxruntime", "NvTensorRTRTXExecutionProvider"),
    ("tensorrt", "tensorrt", None),
    ("tensorrt-rtx", "tensorrt-rtx", None),
)
ON_CPU = (("onnxruntime CPU", "onnxruntime", "CPUExecutionProvider"),)
FAILURES = (PitstopError, RuntimeError, MemoryError, subprocess.CalledProcessError)


@dataclass
class Row:
    """One way to run the denoiser.

    Attributes:
        name: What runs it.
        precision: Of its weights.
        pipeline: Draws with it; None where it cannot be opened.
        why_not: The reason then.
        figures: What was measured.
    """

    name: str
    precision: str
    pipeline: Pipeline | None = None
    why_not: str | None = None
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Way:
    """How a row is opened, and what must be done before, which is not measured."""

    name: str
    open_it: Callable[[], Pipeline]
    prepare: Callable[[], None] | None = None


class TorchGpuSession:
    """The model on a device, in its own precision, with the arrays on the host."""

    def __init__(self, model: Callable[..., torch.Tensor], place: str, dtype: torch.dtype) -> None:
        self._model, self._place, self._dtype = model, place, dtype

    @property
    def device(self) -> str:
        return f"torch {self._place}"

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        latent, timestep, label = (
            torch.from_numpy(np.ascontiguousarray(feeds[name])).to(self._place)
            for name in ("latent", "timestep", "label")
        )
        with torch.inference_mode():
            prediction = self._model(latent.to(self._dtype), timestep, label)
            return {"prediction": prediction.float().cpu().numpy()}

    def close(self) -> None:
        self._model = None


@click.command()
@click.option("--preset", "presets", multiple=True, default=PRESETS, show_default=True)
@click.option("--rounds", default=20, show_default=True, help="Calls of each row, in turn.")
@click.option("--images", default=5, show_default=True, help="Whole runs of each row, in turn.")
@click.option("--tiny", is_flag=True, help="A tiny model on the CPU, to try the script.")
@click.option("--keep", is_flag=True, help="Write the figures to results/gpu.json.")
def main(presets: tuple[str, ...], rounds: int, images: int, tiny: bool, keep: bool) -> None:
    """Export, open, time in turn, print a table."""
    why = read_driver().problem or (None if torch.cuda.is_available() else "PyTorch has no CUDA")
    if why and not tiny:
        click.echo(f"gpu.py: there is no CUDA device to measure: {why}.", err=True)
        sys.exit(2)
    torch.backends.cudnn.allow_tf32 = False  # fp32 is what the others are held against
    if tiny:
        rows = _measure("fashion", 2, "cpu", steps=3, rounds=2, images=1)
        _print("fashion", 2, rows)
        return
    figures = {}
    for preset in presets:
        for batch in BATCHES:
            rows = _measure(preset, batch, "cuda", steps=STEPS, rounds=rounds, images=images)
            _print(preset, batch, rows)
            figures[f"{preset}, batch {batch}"] = [
                {"name": row.name, "precision": row.precision, "why_not": row.why_not} | row.figures
                for row in rows
            ]
    if keep:
        how = {"rounds": rounds, "images": images, "steps": STEPS, "gpu": _gpu()}
        click.echo(record("gpu", {**how, **figures}))


def _gpu() -> dict[str, Any]:
    """The GPU and the versions beside it."""
    nvidia = read_nvidia()
    return {
        "name": torch.cuda.get_device_name(),
        "driver": nvidia.driver,
        "cuda_driver": nvidia.cuda_driver,
        "torch_cuda": torch.version.cuda,
        "tensorrt": nvidia.tensorrt,
        "tensorrt_rtx": nvidia.tensorrt_rtx,
    }


def _measure(
    preset: str, batch: int, place: str, *, steps: int, rounds: int, images: int
) -> list[Row]:
    precision = "fp16" if place == "cuda" else "fp32"
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        precisions = ["fp32"] if precision == "fp32" else ["fp32", precision]
        assert export_bundle(preset, bundle, batch=batch, precisions=precisions).passed
        manifest = open_bundle(bundle).manifest
        reference = Pipeline(manifest, _torch(preset, place, torch.float32), "fp32")
        wanted = _ask(reference)
        del reference
        rows = []
        for way in _ways(preset, bundle, place, precision):
            row = Row(way.name, precision)
            rows.append(row)
            _open(row, way, wanted, place, steps)
        _interleave([row for row in rows if row.pipeline], rounds, images, steps)
        for row in rows:
            if row.pipeline:
                row.pipeline.session.close()
                row.pipeline = None
    gc.collect()
    if place == "cuda":
        torch.cuda.empty_cache()
    return rows


def _ways(preset: str, bundle: Path, place: str, precision: str) -> Iterator[Way]:
    """What is to be compared."""
    manifest = open_bundle(bundle).manifest
    dtype = torch.float16 if precision == "fp16" else torch.float32

    def eager() -> Pipeline:
        return Pipeline(manifest, _torch(preset, place, dtype), precision)

    def compiled() -> Pipeline:
        return Pipeline(manifest, _torch(preset, place, dtype, compiles=True), precision)

    yield Way("torch eager", eager)
    if place == "cuda":
        yield Way("torch.compile, max-autotune", compiled)
    for name, backend, provider in BACKENDS if place == "cuda" else ON_CPU:
        options = SessionOptions(provider=provider)
        build = partial(_build, bundle, backend, precision)
        yield Way(
            name,
            partial(
                Pipeline.from_bundle,
                bundle,
                backend=backend,
                precision=precision,
                options=options,
            ),
            build if backend.startswith("tensorrt") else None,
        )


def _build(bundle: Path, backend: str, precision: str) -> None:
    """Build the engines as a user does, where the backend can run at all."""
    load_backend(backend)
    command = "from pitstop.cli import main; main(prog_name='pitstop')"
    arguments = ["build", str(bundle), "--backend", backend, "--precision", precision]
    subprocess.run(
        [sys.executable, "-c", command, *arguments], check=True, capture_output=True, text=True
    )


def _torch(preset: str, place: str, dtype: torch.dtype, *, compiles: bool = False):
    """The model on a device; the timesteps' sines are made in fp32 in every precision."""
    model = load_source(preset).model.eval()
    frequencies = model.t_embedder.frequencies.to(place)
    model.to(place, dtype)
    model.t_embedder.frequencies = frequencies
    model.t_embedder.mlp.register_forward_pre_hook(lambda module, inputs: (inputs[0].to(dtype),))
    return TorchGpuSession(
        torch.compile(model, mode="max-autotune") if compiles else model, place, dtype
    )


def _ask(pipeline: Pipeline) -> np.ndarray:
    """One answer, for the comparison."""
    manifest = pipeline.manifest
    latent = np.random.default_rng(0).standard_normal((manifest.batch, *manifest.latent_shape))
    told = stack(manifest.examples(manifest.batch))
    return pipeline.predict(latent.astype(np.float32), 500.0, told)


def _draw(pipeline: Pipeline, steps: int) -> None:
    """As many guided images as one denoiser call has rows for."""
    images = max(1, pipeline.manifest.batch // 2)
    pipeline([0] * images, steps=steps, cfg_scale=4.0)


def _open(row: Row, way: Way, wanted: np.ndarray, place: str, steps: int) -> None:
    """Open a row, hold its answer against PyTorch in fp32, and draw one image to warm up."""
    try:
        if way.prepare:
            way.prepare()
        with _peak_memory(place) as peak:
            row.pipeline = way.open_it()
            answer = _ask(row.pipeline)
            _draw(row.pipeline, steps)
        row.figures["relative_l2"] = float(relative_l2(wanted, answer))
        row.figures["peak_memory_bytes"] = peak.get("bytes")
        row.figures["device"] = row.pipeline.session.device
    except FAILURES as error:
        row.pipeline = None
        said = getattr(error, "stderr", None) or str(error) or type(error).__name__
        row.why_not = said.strip().splitlines()[-1]


@contextmanager
def _peak_memory(place: str) -> Iterator[dict[str, int]]:
    """The most that the GPU held more than at the beginning, looked at every 2 ms."""
    peak: dict[str, int] = {}
    if place != "cuda":
        yield peak
        return
    torch.cuda.empty_cache()
    before, _ = torch.cuda.mem_get_info()
    least, done = [before], threading.Event()

    def look() -> None:
        while not done.wait(0.002):
            least[0] = min(least[0], torch.cuda.mem_get_info()[0])

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
        peak["bytes"] = before - least[0]


def _interleave(rows: list[Row], rounds: int, images: int, steps: int) -> None:
    """Times of a step and of an image, the rows in turn."""
    for key, count, call in (
        ("ms_per_step", rounds, _ask),
        ("seconds_per_image_run", images, lambda pipeline: _draw(pipeline, steps)),
    ):
        times: list[list[float]] = [[] for _ in rows]
        for _ in track(range(count), description=key):
            for row, taken in zip(rows, times, strict=True):
                started = time.perf_counter()
                call(row.pipeline)
                taken.append(time.perf_counter() - started)
        unit = 1000 if key.startswith("ms") else 1
        for row, taken in zip(rows, times, strict=True):
            for name, percentile in (("median", 50), ("p10", 10), ("p90", 90)):
                row.figures[f"{key}_{name}"] = unit * float(np.percentile(taken, percentile))


def _print(preset: str, batch: int, rows: list[Row]) -> None:
    click.echo(f"\n{preset}, batch {batch}: a step in ms and a run in s, median (p10 to p90)")
    for row in rows:
        if row.why_not:
            click.echo(f"  {row.name:28} {row.why_not}")
            continue
        step, run = (_spread(row, key) for key in ("ms_per_step", "seconds_per_image_run"))
        memory = row.figures["peak_memory_bytes"]
        held = "" if memory is None else f"{memory / 1e6:8,.0f} MB"
        click.echo(
            f"  {row.name:28} {row.precision} {step}  {run} {held}  "
            f"relative L2 {row.figures['relative_l2']:.1e}"
        )


def _spread(row: Row, key: str) -> str:
    median, low, high = (row.figures[f"{key}_{name}"] for name in ("median", "p10", "p90"))
    return f"{median:8.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
