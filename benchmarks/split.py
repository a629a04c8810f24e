"""What the split saves: the denoiser's weights, and the memory of the sampling loop.

Weights are counted in the traced graphs. Memory is the resident size of a process of its own that
samples one guided image, read after every step, with the conditioner closed as in every run.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import click
from record import record

from pitstop.export.pipeline import export_bundle
from pitstop.export.split import split
from pitstop.export.trace import load_source, trace
from pitstop.graphs.weights import weight_bytes

BATCH = 2
STEPS = 4
SAMPLE = """
import json, sys
from pitstop.runtime import Pipeline

def resident():
    fields = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
    return int(fields["VmRSS"].split()[0]) * 1024

before = resident()
pipeline = Pipeline.from_bundle(sys.argv[1], backend="onnxruntime")
sizes = []
pipeline(labels=[0], steps=int(sys.argv[2]), on_step=lambda images: sizes.append(resident()))
print(json.dumps({"before_bytes": before, "loop_peak_bytes": max(sizes)}))
"""


@click.command()
@click.option(
    "--weights",
    "counted",
    multiple=True,
    default=["pit-s-2", "pit-b-2", "pit-l-2", "pit-xl-2", "dit-xl-2"],
    show_default=True,
)
@click.option(
    "--memory",
    "sampled",
    multiple=True,
    default=["pit-s-2", "pit-b-2", "pit-l-2", "pit-xl-2", "dit-xl-2"],
)
@click.option("--keep", is_flag=True, help="Write the figures to results/split.json.")
def main(counted: tuple[str, ...], sampled: tuple[str, ...], keep: bool) -> None:
    """Count weights, measure memory, print."""
    figures = {
        "weights": {preset: _weights(preset) for preset in counted},
        "memory": {preset: _memory(preset) for preset in sampled},
    }
    click.echo(json.dumps(figures, indent=2))
    if keep:
        click.echo(record("split", figures))


def _weights(preset: str) -> dict[str, float]:
    traced = trace(load_source(preset).model, BATCH)
    conditioner, denoiser = split(traced)
    whole, kept = weight_bytes(traced), weight_bytes(denoiser)
    gc.collect()
    return {
        "unsplit_bytes": whole,
        "denoiser_bytes": kept,
        "conditioner_bytes": weight_bytes(conditioner),
        "ratio": kept / whole,
    }


def _memory(preset: str) -> dict[str, dict[str, int]]:
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, left_out in (("unsplit", ["split"]), ("split", [])):
            bundle = Path(folder) / name
            assert export_bundle(preset, bundle, batch=BATCH, left_out=left_out).passed
            asked = [sys.executable, "-c", SAMPLE, str(bundle), str(STEPS)]
            done = subprocess.run(asked, capture_output=True, text=True, check=True)
            figures[name] = json.loads(done.stdout)
    return figures


if __name__ == "__main__":
    main()
