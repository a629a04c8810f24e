"""One denoiser step and one image on a CUDA GPU: PyTorch beside every backend that works there.

Random weights. Each model is exported once for each batch; a batch of 2 is one guided image. All
rows of a batch are open at once and timed in turn, so that what the machine does meanwhile falls on
all alike; a row that cannot be opened says why. A step is one denoiser call with its arrays on the
host, as `compare` makes it; an image is a whole run as `generate` makes it, in which a backend may
keep the latents on the GPU. Memory is the most that the whole GPU held more than before, from
opening a row to the end of its first image; engines are built in another process, before. What
fails is a line that says why, and the rest goes on.

With ``--quick`` one model, few calls, and each row in a process of its own, one after the other:
what takes longer than its share of nine minutes is ended, and is a line too.

With ``--tiny`` the demo's model, few calls and no GPU: that shows that the script runs, and its
figures mean nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import signal
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
from rich.console import Console
from rich.progress import track

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
QUICK = 480  # seconds of all parts together: with what is around them, less than nine minutes
# Name of the row, backend, provider.
BACKENDS = (
    ("onnxruntime CUDA", "onnxruntime", "CUDAExecutionProvider"),
    ("onnxruntime TensorRT", "onnxruntime", "TensorrtExecutionProvider"),
    ("onnxruntime TensorRT-RTX", "onnxruntime", "NvTensorRTRTXExecutionProvider"),
    ("tensorrt", "tensorrt", None),
    ("tensorrt-rtx", "tensorrt-rtx", None),
)
WANTED = "wanted.npy"  # what PyTorch predicts in fp32
DRAWN, CHECKED = "drawn.npy", 4  # what it draws, in so few steps that rounding does not grow
ON_CPU = (("onnxruntime CPU", "onnxruntime", "CPUExecutionProvider"),)


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


@dataclass(frozen=True)
class Count:
    """How much of each row is timed.

    Attributes:
        steps: Of an image.
        rounds: Denoiser calls, in turn.
        images: Whole runs, in turn.
    """

    steps: int = STEPS
    rounds: int = 20
    images: int = 5


@click.command()
@click.option("--preset", "presets", multiple=True, help="By default PiT-S to XL, 256 and 512 px.")
@click.option("--rounds", default=Count.rounds, show_default=True, help="Calls of each row.")
@click.option("--images", default=Count.images, show_default=True, help="Whole runs of each row.")
@click.option("--quick", is_flag=True, help="PiT-S at 256 px in 9 minutes at most.")
@click.option("--tiny", is_flag=True, help="A tiny model on the CPU, to try the script.")
@click.option("--keep", is_flag=True, help="Write the figures to results/gpu.json.")
def main(
    presets: tuple[str, ...], rounds: int, images: int, quick: bool, tiny: bool, keep: bool
) -> None:
    """Export, open, time in turn, print a table."""
    why = read_driver().problem or (None if torch.cuda.is_available() else "PyTorch has no CUDA")
    if why and not tiny:
        click.echo(f"gpu.py: there is no CUDA device to measure: {why}.", err=True)
        sys.exit(2)
    _forbid_tf32()
    place, count = ("cpu", Count(3, 2, 1)) if tiny else ("cuda", Count(STEPS, rounds, images))
    if quick and not tiny:
        count = Count(STEPS, min(rounds, 10), min(images, 3))
    until = time.monotonic() + QUICK
    figures = {}
    for preset in presets or (["fashion"] if tiny else PRESETS[:1] if quick else PRESETS):
        for batch in BATCHES[:1] if tiny or quick else BATCHES:
            click.echo(f"\n{preset}, batch {batch}: a step in ms, a run in s, median (p10 to p90)")
            rows = (
                _measure_apart(preset, batch, place, count, until)
                if quick
                else _measure(preset, batch, place, count)
            )
            figures[f"{preset}, batch {batch}"] = [
                {"name": row.name, "precision": row.precision, "why_not": row.why_not} | row.figures
                for row in rows
            ]
    if keep and not tiny:
        how = {**dataclasses.asdict(count), "quick": quick, "gpu": _gpu()}
        click.echo(record("gpu", {**how, **figures}))


def _forbid_tf32() -> None:
    """fp32 is what the others are held against."""
    torch.backends.cudnn.allow_tf32 = False


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


def _measure(preset: str, batch: int, place: str, count: Count) -> list[Row]:
    """All rows open at once, and timed in turn."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            prepare(preset, batch, place, folder)
        except Exception as error:  # one that is not foreseen must not end the others either
            click.echo(f"  not exported: {_reason(error)}")
            return []
        for way in _ways(preset, Path(folder), place):
            rows.append(row := Row(way.name, _precision(place)))
            _open(row, way, Path(folder), place, count)
        _interleave([row for row in rows if row.pipeline], count)
        for row in rows:
            if row.pipeline:
                row.pipeline.session.close()
                row.pipeline = None
            _print(row)
    gc.collect()
    if place == "cuda":
        torch.cuda.empty_cache()
    return rows


def _measure_apart(preset: str, batch: int, place: str, count: Count, until: float) -> list[Row]:
    """Each row in a process of its own, which has its share of the time that is left."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            names = _apart("prepare", [preset, batch, place, folder], _share(until, 3))
        except (RuntimeError, TimeoutError) as error:
            click.echo(f"  not exported: {_reason(error)}")
            return []
        for index, name in enumerate(names):
            rows.append(row := Row(name, _precision(place)))
            asked = [preset, folder, place, name, dataclasses.astuple(count)]
            try:
                row.figures = _apart("measure_one", asked, _share(until, len(names) - index))
                row.why_not = row.figures.pop("why_not")
            except (RuntimeError, TimeoutError) as error:
                row.why_not = _reason(error)
            _print(row)
    return rows


def _share(until: float, parts: int) -> float:
    """Seconds that the first of some parts has."""
    return max(1.0, (until - time.monotonic()) / parts)


def _apart(function: str, arguments: list[Any], limit: float) -> Any:
    """What a function of this file returns in a process of its own.

    Raises:
        TimeoutError: It took longer than ``limit`` seconds, and was ended with all that it began.
        RuntimeError: It failed, or its process died.
    """
    code = (
        "import gpu, json, sys\n"
        "print(json.dumps(getattr(gpu, sys.argv[1])(*json.loads(sys.argv[2]))))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, function, json.dumps(arguments)],
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as child:
        try:
            said, complained = child.communicate(timeout=limit)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"it was not done after {limit:.0f} s") from error
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
    if child.returncode:
        raise RuntimeError(complained.strip() or f"its process ended with {child.returncode}")
    return json.loads(said.splitlines()[-1])


def prepare(preset: str, batch: int, place: str, folder: str) -> list[str]:
    """Export a model and write down what it predicts: the names of what is to be compared."""
    _forbid_tf32()
    precisions = list(dict.fromkeys(["fp32", _precision(place)]))
    bundle = Path(folder) / "bundle"
    if not export_bundle(preset, bundle, batch=batch, precisions=precisions).passed:
        raise RuntimeError("it does not predict what PyTorch does")
    manifest = open_bundle(bundle).manifest
    reference = Pipeline(manifest, _torch(preset, place, torch.float32), "fp32")
    np.save(Path(folder) / WANTED, _ask(reference))
    np.save(Path(folder) / DRAWN, _draw(reference, CHECKED))
    return [way.name for way in _ways(preset, Path(folder), place)]


def measure_one(
    preset: str, folder: str, place: str, name: str, count: list[int]
) -> dict[str, Any]:
    """Open and time one row: its figures, and why there are none."""
    _forbid_tf32()
    [way] = [way for way in _ways(preset, Path(folder), place) if way.name == name]
    row = Row(name, _precision(place))
    _open(row, way, Path(folder), place, Count(*count))
    if row.pipeline:
        _interleave([row], Count(*count))
    return {**row.figures, "why_not": row.why_not}


def _precision(place: str) -> str:
    return "fp16" if place == "cuda" else "fp32"


def _reason(error: Exception) -> str:
    """An error in one line."""
    said = getattr(error, "stderr", None) or str(error) or type(error).__name__
    return said.strip().splitlines()[-1]


def _ways(preset: str, folder: Path, place: str) -> Iterator[Way]:
    """What is to be compared."""
    bundle, precision = folder / "bundle", _precision(place)
    manifest = open_bundle(bundle).manifest
    dtype = torch.float16 if precision == "fp16" else torch.float32

    def eager() -> Pipeline:
        return Pipeline(manifest, _torch(preset, place, dtype), precision)

    def compiled() -> Pipeline:
        return Pipeline(manifest, _torch(preset, place, dtype, compiles=True), precision)

    yield Way("torch eager", eager)
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
    if place == "cuda":  # it takes the longest to open
        yield Way("torch.compile, max-autotune", compiled)


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


def _draw(pipeline: Pipeline, steps: int) -> np.ndarray:
    """As many guided images as one denoiser call has rows for, through the loop of `generate`."""
    images = max(1, pipeline.manifest.batch // 2)
    return pipeline([0] * images, steps=steps, cfg_scale=4.0).latents


def _open(row: Row, way: Way, folder: Path, place: str, count: Count) -> None:
    """Open a row, hold what it predicts and draws against PyTorch in fp32, and warm up."""
    try:
        if way.prepare:
            way.prepare()
        with _peak_memory(place) as peak:
            row.pipeline = way.open_it()
            answer = _ask(row.pipeline)
            drawn = _draw(row.pipeline, CHECKED)
            _draw(row.pipeline, count.steps)
        row.figures["relative_l2"] = float(relative_l2(np.load(folder / WANTED), answer))
        row.figures["relative_l2_drawn"] = float(relative_l2(np.load(folder / DRAWN), drawn))
        row.figures["peak_memory_bytes"] = peak.get("bytes")
        row.figures["device"] = row.pipeline.session.device
    except Exception as error:  # whatever it is, the other rows go on
        row.pipeline = None
        row.why_not = _reason(error)


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


def _interleave(rows: list[Row], count: Count) -> None:
    """Times of a step and of an image, the rows in turn."""
    for key, times, call in (
        ("ms_per_step", count.rounds, _ask),
        ("seconds_per_image_run", count.images, lambda pipeline: _draw(pipeline, count.steps)),
    ):
        taken: dict[str, list[float]] = {row.name: [] for row in rows}
        for _ in track(range(times), description=key, console=Console(stderr=True)):
            for row in rows:
                if row.why_not is None:
                    _time(row, call, taken[row.name])
        unit = 1000 if key.startswith("ms") else 1
        for row in rows:
            for name, percentile in (("median", 50), ("p10", 10), ("p90", 90)):
                if row.why_not is None:
                    value = float(np.percentile(taken[row.name], percentile))
                    row.figures[f"{key}_{name}"] = unit * value


def _time(row: Row, call: Callable[[Pipeline], object], taken: list[float]) -> None:
    started = time.perf_counter()
    try:
        call(row.pipeline)
    except Exception as error:  # whatever it is, the other rows go on
        row.why_not = _reason(error)
    taken.append(time.perf_counter() - started)


def _print(row: Row) -> None:
    if row.why_not:
        click.echo(f"  {row.name:28} {row.why_not}")
        return
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
