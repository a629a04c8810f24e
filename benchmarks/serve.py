"""Latency and throughput of `pitstop serve`, batching by step beside batching whole requests.

Two servers of one bundle, one of each batching, get the same requests in turns, block by block:
guided images, half of 20 and half of 50 steps, that arrive as a Poisson process at 0.6 of what the
server by step draws when it is saturated. Every image of one server must equal the other's byte for
byte, and a sample what `pitstop generate` writes. The client runs beside the servers: run it on an
idle machine. `--quick` is the demo with a few requests, to try the script.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from record import RESULTS, record

from pitstop.export.pipeline import export_bundle
from pitstop.runtime.backend import SessionOptions
from pitstop.runtime.jobs import draw_images
from pitstop.runtime.jobs.plan import plan_images
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.settings import Settings

PRESETS = ("fashion", "pit-s-2")
BATCHINGS = ("step", "request")
STEPS = (20, 50)
LOAD = 0.6
CFG_SCALE = 2.0
SAMPLE = 8  # images that are drawn again by generate
MOST_LATENCY, LEAST_THROUGHPUT = 0.75, 0.98  # of batching whole requests
PITSTOP = [sys.executable, "-c", "from pitstop.cli import main; main(prog_name='pitstop')"]


@dataclass(frozen=True)
class Arrival:
    """One request: when it is sent, in seconds from the first, and what it asks for."""

    after: float
    seed: int
    steps: int

    @property
    def body(self) -> bytes:
        fields = {"label": self.seed % 10, "seed": self.seed, "steps": self.steps}
        return json.dumps({**fields, "cfg_scale": CFG_SCALE}).encode()


@dataclass(frozen=True)
class Answer:
    """What came back: the image's file, and seconds from sending to the last byte."""

    png: bytes
    seconds: float


@click.command()
@click.option("--preset", "presets", multiple=True, default=PRESETS, show_default=True)
@click.option("--bundle", "given", type=click.Path(path_type=Path), help="Exported before.")
@click.option("--requests", default=200, show_default=True, help="Of the Poisson process.")
@click.option("--blocks", default=4, show_default=True, help="Turns of each server.")
@click.option("--batch", default=8, show_default=True, help="Rows of a call.")
@click.option("--threads", type=int, help="Of the denoiser.")
@click.option("--backend", default="auto", show_default=True)
@click.option("--quick", is_flag=True, help="The demo, with 12 requests.")
@click.option("--keep", is_flag=True, help="Write results/serve.json and serve.png.")
def main(
    presets: tuple[str, ...],
    given: Path | None,
    requests: int,
    blocks: int,
    batch: int,
    threads: int | None,
    backend: str,
    quick: bool,
    keep: bool,
) -> None:
    """Export, serve, ask, print."""
    if quick:
        presets, requests, blocks = ("fashion",), min(requests, 12), 2
    presets = presets if given is None else (given.name,)
    figures, latencies = {}, {}
    for preset in presets:
        with tempfile.TemporaryDirectory() as folder:
            bundle = given or Path(folder) / "bundle"
            if given is None:
                assert export_bundle(preset, bundle, batch=batch).passed
            found, latencies[preset] = _serve_both(bundle, backend, threads, requests, blocks)
            sample = found.pop("sample")
            same = equal_to_generate(bundle, sample, Path(folder), backend, threads)
        figures[preset] = {**found, "equal_to_generate": same}
        click.echo(f"{preset}: {json.dumps(figures[preset], indent=2)}")
    for preset, found in figures.items():
        for promise in bars(found):
            click.echo(f"{preset}: {promise}")
    if keep:
        click.echo(record("serve", figures))
        click.echo(plot(latencies, RESULTS / "serve.png"))


def _serve_both(
    bundle: Path, backend: str, threads: int | None, requests: int, blocks: int
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    options = ["--backend", backend, *(["--threads", str(threads)] if threads else [])]
    with contextlib.ExitStack() as servers:
        ports = {
            batching: servers.enter_context(server(bundle, batching, options))[0]
            for batching in BATCHINGS
        }
        return measure(ports, requests, blocks)


@contextlib.contextmanager
def server(bundle: Path, batching: str, options: Sequence[str]) -> Iterator[tuple[int, int]]:
    """A server as a process of its own: its port, and the process's number."""
    command = [*PITSTOP, "serve", str(bundle), "--port", "0", "--queue", "1000"]
    command += ["--batching", batching, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r":(\d+)/\s*$", process.stdout.readline())
        assert found is not None
        try:
            yield int(found[1]), process.pid
        finally:
            process.terminate()


def measure(
    ports: Mapping[str, int], requests: int, blocks: int
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """The figures of both servers, with a sample of the answers; and all latencies in seconds."""
    burst = arrivals(max(4, requests // 5), np.inf, first_seed=10_000)
    for port in ports.values():
        ask_all(port, burst[:2])  # opens what is opened when it is first used
    saturated: dict[str, list[float]] = {batching: [] for batching in ports}
    for _ in range(2):
        for batching, port in ports.items():
            started = time.perf_counter()
            ask_all(port, burst)
            saturated[batching].append(len(burst) / (time.perf_counter() - started))
    throughput = {batching: max(rates) for batching, rates in saturated.items()}
    plan = arrivals(requests, LOAD * throughput["step"])
    answers: dict[str, list[Answer]] = {batching: [] for batching in ports}
    for block in np.array_split(np.arange(requests), blocks):
        turn = [plan[index] for index in block]
        turn = [replace(one, after=one.after - turn[0].after) for one in turn]
        for batching, port in ports.items():
            answers[batching] += ask_all(port, turn)
    seconds = {name: [one.seconds for one in some] for name, some in answers.items()}
    figures = {
        "images_per_second_saturated": throughput,
        "images_per_second_asked": LOAD * throughput["step"],
        "latency_seconds": {name: percentiles(some, plan) for name, some in seconds.items()},
        "requests": requests,
        "equal_images": same_images(answers),
        "sample": list(zip(plan, answers["step"], strict=True))[:SAMPLE],
    }
    return figures, seconds


def arrivals(count: int, per_second: float, first_seed: int = 0) -> list[Arrival]:
    """A Poisson process, half of each number of steps in random order."""
    random = np.random.default_rng(0)
    gaps = random.exponential(1 / per_second, count) if np.isfinite(per_second) else [0.0] * count
    steps = random.permutation(np.resize(STEPS, count))
    return [
        Arrival(float(after), first_seed + index, int(some))
        for index, (after, some) in enumerate(zip(np.cumsum(gaps), steps, strict=True))
    ]


def ask_all(port: int, plan: Sequence[Arrival]) -> list[Answer]:
    """Send each when it is due, whatever became of those before."""
    started = time.perf_counter()
    with ThreadPoolExecutor(len(plan)) as clients:
        asked = []
        for one in plan:
            time.sleep(max(0.0, started + one.after - time.perf_counter()))
            asked.append(clients.submit(ask, port, one))
        return [answer.result() for answer in asked]


def ask(port: int, arrival: Arrival) -> Answer:
    """One request and its image."""
    started = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3600)
    with contextlib.closing(connection):
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/images/generations", arrival.body, headers)
        answer = connection.getresponse()
        content = answer.read()
    seconds = time.perf_counter() - started
    assert answer.status == 200, content
    [one] = json.loads(content)["data"]
    return Answer(base64.b64decode(one["b64_json"]), seconds)


def percentiles(seconds: Sequence[float], plan: Sequence[Arrival]) -> dict[str, dict[str, float]]:
    """Of all requests, and of those of each number of steps."""
    groups = {"all": STEPS, **{f"{steps} steps": (steps,) for steps in STEPS}}
    return {
        name: {
            f"p{share}": float(
                np.percentile(
                    [one for one, asked in zip(seconds, plan, strict=True) if asked.steps in some],
                    share,
                )
            )
            for share in (50, 95)
        }
        for name, some in groups.items()
    }


def same_images(answers: Mapping[str, Sequence[Answer]]) -> int:
    """How many images both servers drew alike."""
    return sum(a.png == b.png for a, b in zip(*answers.values(), strict=True))


def equal_to_generate(
    bundle: Path,
    sample: Sequence[tuple[Arrival, Answer]],
    folder: Path,
    backend: str,
    threads: int | None,
) -> bool:
    """Whether the command writes the same files."""
    same, options = True, SessionOptions(threads=threads)
    with Pipeline.from_bundle(bundle, backend=backend, options=options) as pipeline:
        for arrival, answer in sample:
            out = folder / f"drawn-{arrival.seed}"
            [image] = plan_images(pipeline.manifest, [arrival.seed % 10], 1, arrival.seed)
            draw_images(pipeline, [image], Settings(arrival.steps, cfg_scale=CFG_SCALE), out)
            same &= (out / f"{image.stem}.png").read_bytes() == answer.png
    return same


def bars(found: Mapping[str, Any]) -> list[str]:
    """Each promise, with what was found."""
    step, request = (found["latency_seconds"][batching]["all"] for batching in BATCHINGS)
    rates = found["images_per_second_saturated"]
    ratios = {share: step[share] / request[share] for share in step}
    throughput = rates["step"] / rates["request"]
    equal = found["equal_images"] == found["requests"] and found["equal_to_generate"]
    return [
        *(
            f"{share} at most {MOST_LATENCY}x of whole requests: {ratio:.2f}x, "
            f"{met(ratio <= MOST_LATENCY)}"
            for share, ratio in ratios.items()
        ),
        f"throughput at saturation at least {LEAST_THROUGHPUT}x: {throughput:.2f}x, "
        f"{met(throughput >= LEAST_THROUGHPUT)}",
        f"images equal byte for byte: {found['equal_images']} of {found['requests']}, {met(equal)}",
    ]


def met(held: bool) -> str:
    return "met" if held else "NOT MET"


def plot(latencies: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> Path:
    """Of each preset, which share of the requests was answered within how many seconds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(latencies), 3.2), layout="constrained")
    for axes, (preset, found) in zip(
        figure.subplots(1, len(latencies), squeeze=False)[0], latencies.items(), strict=True
    ):
        for batching, seconds in found.items():
            shares = np.arange(1, len(seconds) + 1) / len(seconds)
            axes.step(np.sort(seconds), 100 * shares, where="post", label=f"by {batching}")
        axes.set_title(f"{preset}, load {LOAD}")
        axes.set_xlabel("seconds until the image")
        axes.set_ylabel("% of the requests")
        axes.set_ylim(0, 100)
        axes.legend()
    figure.savefig(path, dpi=120)
    return path


if __name__ == "__main__":
    main()
