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
from gpu_floor import judge
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
# Name of the row, backend, provider, precisions.
BACKENDS = (
    ("onnxruntime CUDA", "onnxruntime", "CUDAExecutionProvider", ("fp32", "fp16", "bf16", "int8")),
    ("onnxruntime TensorRT", "onnxruntime", "TensorrtExecutionProvider", ("fp16",)),
    ("onnxruntime TensorRT-RTX", "onnxruntime", "NvTensorRTRTXExecutionProvider", ("fp16",)),
    ("tensorrt", "tensorrt", None, ("fp16",)),
    ("tensorrt-rtx", "tensorrt-rtx", None, ("fp16",)),
)
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
WANTED = "wanted.npy"  # what PyTorch predicts in fp32
DRAWN, CHECKED = "drawn.npy", 4  # what it draws, in so few steps that rounding does not grow
ON_CPU = (("onnxruntime CPU", "onnxruntime", "CPUExecutionProvider", ("fp32",)),)
MODES = ("max-autotune", "reduce-overhead", "default", NOT_COMPILED := "none")
SIDE = 8192  # of the square matrices whose product is the card's best


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
    precision: str
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
        mode: Of torch.compile.
    """

    steps: int = STEPS
    rounds: int = 20
    images: int = 5
    mode: str = MODES[0]


@click.command()
@click.option("--preset", "presets", multiple=True, help="By default PiT-S to XL, 256 and 512 px.")
@click.option("--batch", "batches", type=int, multiple=True, help="By default 2 and 16.")
@click.option("--rounds", default=Count.rounds, show_default=True, help="Calls of each row.")
@click.option("--images", default=Count.images, show_default=True, help="Whole runs of each row.")
@click.option("--compile", "mode", type=click.Choice(MODES), default=MODES[0], show_default=True)
@click.option(
    "--bundles",
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder that keeps the exports, PRESET.bBATCH/bundle; one that is there is taken as it "
    "is, with its int8 where it has one.",
)
@click.option("--quick", is_flag=True, help="PiT-S at 256 px in 9 minutes at most.")
@click.option("--tiny", is_flag=True, help="A tiny model on the CPU, to try the script.")
@click.option("--keep", is_flag=True, help="Write the figures to results/gpu.json.")
def main(
    presets: tuple[str, ...],
    batches: tuple[int, ...],
    rounds: int,
    images: int,
    mode: str,
    bundles: Path | None,
    quick: bool,
    tiny: bool,
    keep: bool,
) -> None:
    """Export, open, time in turn, print a table."""
    why = read_driver().problem or (None if torch.cuda.is_available() else "PyTorch has no CUDA")
    if why and not tiny:
        click.echo(f"gpu.py: there is no CUDA device to measure: {why}.", err=True)
        sys.exit(2)
    _forbid_tf32()
    place, count = ("cpu", Count(3, 2, 1)) if tiny else ("cuda", Count(STEPS, rounds, images, mode))
    if quick and not tiny:
        count = Count(STEPS, min(rounds, 10), min(images, 3), mode)
    until = time.monotonic() + QUICK
    figures = {}
    for preset in presets or (["fashion"] if tiny else PRESETS[:1] if quick else PRESETS):
        for batch in batches or (BATCHES[:1] if tiny or quick else BATCHES):
            click.echo(f"\n{preset}, batch {batch}: a step in ms, a run in s, median (p10 to p90)")
            with _folder(bundles, f"{preset}.b{batch}") as folder:
                rows = (
                    _measure_apart(preset, batch, place, folder, count, until)
                    if quick
                    else _measure(preset, batch, place, folder, count)
                )
                if place == "cuda":
                    for line in judge(rows, Path(folder) / "bundle", torch.cuda.get_device_name()):
                        click.echo(f"  {line}")
            figures[f"{preset}, batch {batch}"] = [
                {"name": row.name, "precision": row.precision, "why_not": row.why_not} | row.figures
                for row in rows
            ]
    if keep and not tiny:
        peak = {} if place == "cpu" else _peak()
        how = {**dataclasses.asdict(count), "quick": quick, "gpu": _gpu(), "peak": peak}
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


@contextmanager
def _folder(bundles: Path | None, name: str) -> Iterator[str]:
    """Where an export lies: kept, or gone after it was measured."""
    if bundles is None:
        with tempfile.TemporaryDirectory() as folder:
            yield folder
        return
    (bundles / name).mkdir(parents=True, exist_ok=True)
    yield str(bundles / name)


def _measure(preset: str, batch: int, place: str, folder: str, count: Count) -> list[Row]:
    """All rows open at once, and timed in turn."""
    rows = []
    try:
        prepare(preset, batch, place, folder, count.mode)
    except Exception as error:  # one that is not foreseen must not end the others either
        click.echo(f"  not exported: {_reason(error)}")
        return []
    for way in _ways(preset, Path(folder), place, count.mode):
        rows.append(row := Row(way.name, way.precision))
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


def _measure_apart(
    preset: str, batch: int, place: str, folder: str, count: Count, until: float
) -> list[Row]:
    """Each row in a process of its own, which has its share of the time that is left."""
    rows = []
    try:
        names = _apart("prepare", [preset, batch, place, folder, count.mode], _share(until, 3))
    except (RuntimeError, TimeoutError) as error:
        click.echo(f"  not exported: {_reason(error)}")
        return []
    for index, (name, precision) in enumerate(names):
        rows.append(row := Row(name, precision))
        asked = [preset, folder, place, [name, precision], dataclasses.astuple(count)]
        try:
            row.figures = _apart("measure_one", asked, _share(until, len(names) - index))
            row.why_not = row.figures.pop("why_not")
        except (RuntimeError, TimeoutError) as error:
            row.why_not = _reason(error)
        _print(row)
    return rows


def _peak() -> dict[str, float]:
    """What the card does at best: square matrix products, and a copy on the device."""
    peak = {}
    random = [torch.randn(SIDE, SIDE, device="cuda") for _ in range(2)]
    for name, dtype in DTYPES.items():
        first, second = (matrix.to(dtype) for matrix in random)
        taken = _device_seconds(lambda first=first, second=second: first @ second)
        peak[f"{name}_tflops"] = 2 * SIDE**3 / taken / 1e12
    first, second = ((20 * matrix).to(torch.int8) for matrix in random)
    taken = _device_seconds(lambda: torch._int_mm(first, second.t()))
    peak["int8_tops"] = 2 * SIDE**3 / taken / 1e12
    large = torch.randn(1 << 28, device="cuda")
    room = torch.empty_like(large)
    taken = _device_seconds(lambda: room.copy_(large))
    return {**peak, "copy_gb_per_s": 2 * large.nbytes / taken / 1e9}


def _device_seconds(work: Callable[[], object], times: int = 20) -> float:
    """The median on the device, after three calls to warm up."""
    taken = []
    for _ in range(3 + times):
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        work()
        after.record()
        torch.cuda.synchronize()
        taken.append(before.elapsed_time(after) / 1e3)
    return float(np.median(taken[3:]))


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


def prepare(preset: str, batch: int, place: str, folder: str, mode: str) -> list[tuple[str, str]]:
    """Export a model and write down what it predicts: names and precisions to be compared."""
    _forbid_tf32()
    precisions = ["fp32", "fp16"] if place == "cuda" else ["fp32"]
    bundle = Path(folder) / "bundle"
    if (
        not bundle.exists()
        and not export_bundle(preset, bundle, batch=batch, precisions=precisions).passed
    ):
        raise RuntimeError("it does not predict what PyTorch does")
    manifest = open_bundle(bundle).manifest
    reference = Pipeline(manifest, _torch(preset, place, torch.float32), "fp32")
    np.save(Path(folder) / WANTED, _ask(reference))
    np.save(Path(folder) / DRAWN, _draw(reference, CHECKED))
    return [(way.name, way.precision) for way in _ways(preset, Path(folder), place, mode)]


def measure_one(
    preset: str, folder: str, place: str, name: list[str], count: list[int]
) -> dict[str, Any]:
    """Open and time one row, of a name and a precision: its figures, and why there are none."""
    _forbid_tf32()
    ways = _ways(preset, Path(folder), place, Count(*count).mode)
    [way] = [way for way in ways if [way.name, way.precision] == name]
    row = Row(way.name, way.precision)
    _open(row, way, Path(folder), place, Count(*count))
    if row.pipeline:
        _interleave([row], Count(*count))
    return {**row.figures, "why_not": row.why_not}


def _reason(error: Exception) -> str:
    """An error in one line."""
    said = getattr(error, "stderr", None) or str(error) or type(error).__name__
    return said.strip().splitlines()[-1]


def _ways(preset: str, folder: Path, place: str, mode: str) -> Iterator[Way]:
    """What is to be compared: what takes longest to open is last."""
    bundle = folder / "bundle"
    manifest = open_bundle(bundle).manifest

    def in_torch(precision: str, mode: str = NOT_COMPILED) -> Pipeline:
        model = _torch(preset, place, DTYPES[precision], mode=mode)
        return Pipeline(manifest, model, precision)

    for precision in DTYPES if place == "cuda" else ["fp32"]:
        yield Way("torch eager", precision, partial(in_torch, precision))
    for name, backend, provider, precisions in BACKENDS if place == "cuda" else ON_CPU:
        for precision in precisions:
            if precision in manifest.precisions:
                open_it = partial(
                    Pipeline.from_bundle,
                    bundle,
                    backend=backend,
                    precision=precision,
                    options=SessionOptions(provider=provider),
                )
                build = partial(_build, bundle, backend, precision)
                needs = backend.startswith("tensorrt")
                yield Way(name, precision, open_it, build if needs else None)
    for precision in ("fp16", "bf16") if place == "cuda" and mode != NOT_COMPILED else ():
        open_it = partial(in_torch, precision, mode)
        yield Way(f"torch.compile, {mode}", precision, open_it)


def _build(bundle: Path, backend: str, precision: str) -> None:
    """Build the engines as a user does, where the backend can run at all."""
    load_backend(backend)
    command = "from pitstop.cli import main; main(prog_name='pitstop')"
    arguments = ["build", str(bundle), "--backend", backend, "--precision", precision]
    subprocess.run(
        [sys.executable, "-c", command, *arguments], check=True, capture_output=True, text=True
    )


def _torch(preset: str, place: str, dtype: torch.dtype, *, mode: str = NOT_COMPILED):
    """The model on a device; the timesteps' sines are made in fp32 in every precision."""
    model = load_source(preset).model.eval()
    frequencies = model.t_embedder.frequencies.to(place)
    model.to(place, dtype)
    model.t_embedder.frequencies = frequencies
    model.t_embedder.mlp.register_forward_pre_hook(lambda module, inputs: (inputs[0].to(dtype),))
    return TorchGpuSession(
        model if mode == NOT_COMPILED else torch.compile(model, mode=mode), place, dtype
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
        started = time.perf_counter()
        with _peak_memory(place) as peak:
            row.pipeline = way.open_it()
            answer = _ask(row.pipeline)
            row.figures["seconds_to_first_answer"] = time.perf_counter() - started
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
        taken: dict[int, list[float]] = {id(row): [] for row in rows}
        for _ in track(range(times), description=key, console=Console(stderr=True)):
            for row in rows:
                if row.why_not is None:
                    _time(row, call, taken[id(row)])
        unit = 1000 if key.startswith("ms") else 1
        for row in rows:
            for name, percentile in (("median", 50), ("p10", 10), ("p90", 90)):
                if row.why_not is None:
                    value = float(np.percentile(taken[id(row)], percentile))
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
        click.echo(f"  {row.name:28} {row.precision} {row.why_not}")
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
