"""A DiT-XL/2 in other people's formats: what reading it takes, and how close its bundle comes.

The weights are random, in files of the full size. Memory is the resident size of a process of its
own above what its imports take, mapped pages of the file counted; it is given over the size of the
weights in fp32. With ``--export`` the official file goes through the whole export, and the bundle
draws its goldens' image of 20 guided steps.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from record import record

from pitstop.evaluation.compare import compare
from pitstop.export.pipeline import export_bundle
from pitstop.models.presets import load_preset
from pitstop.runtime.bundle import open_bundle
from pitstop.runtime.goldens import read_goldens
from pitstop.runtime.pipeline import Pipeline

PRESET = "dit-xl-2"
LOAD = """
import json, sys, time
from pitstop.models.checkpoint import load_checkpoint

def status(name):
    fields = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
    return int(fields[name].split()[0]) * 1024

before, started = status("VmRSS"), time.perf_counter()
checkpoint = load_checkpoint(sys.argv[1])
print(json.dumps({
    "seconds": time.perf_counter() - started,
    "peak_bytes": status("VmHWM") - before,
    "weight_bytes": sum(tensor.nbytes for tensor in checkpoint.model.state_dict().values()),
}))
"""


def write_official(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    weights = load_preset(PRESET).model.state_dict()
    torch.save({name: tensor.to(dtype) for name, tensor in weights.items()}, folder / "dit.pt")
    return folder / "dit.pt"


def write_half(folder: Path) -> Path:
    return write_official(folder, torch.float16)


def write_training(folder: Path) -> Path:
    """A training checkpoint: the averaged weights beside the others and AdamW's two moments."""
    weights = load_preset(PRESET).model.state_dict()
    moments = {
        index: {"exp_avg": w, "exp_avg_sq": w + 1} for index, w in enumerate(weights.values())
    }
    started = {name: tensor + 1 for name, tensor in weights.items()}
    torch.save({"model": started, "ema": weights, "opt": {"state": moments}}, folder / "dit.pt")
    return folder / "dit.pt"


def write_diffusers(folder: Path) -> Path:
    """A folder in shards, with the embedders' copies in every block."""
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

    torch.manual_seed(0)
    model = DiTTransformer2DModel()
    weights = model.state_dict()
    first = "transformer_blocks.0.norm1.emb."
    for name in weights:
        if ".norm1.emb." in name:
            weights[name].copy_(weights[first + name.split(".norm1.emb.")[1]])
    model.save_pretrained(folder / "transformer", max_shard_size="1GB")
    return folder / "transformer"


FILES: dict[str, Callable[[Path], Path]] = {
    "dit": write_official,
    "dit, fp16": write_half,
    "dit, training": write_training,
    "diffusers": write_diffusers,
}


@click.command()
@click.option("--export", "exports", is_flag=True, help="Export the official file too.")
@click.option("--keep", is_flag=True, help="Write the figures to results/checkpoints.json.")
def main(exports: bool, keep: bool) -> None:
    """Write each file, read it in a process of its own, print."""
    figures: dict[str, Any] = {"load": {name: _load(write) for name, write in FILES.items()}}
    if exports:
        figures["export"] = _export()
    click.echo(json.dumps(figures, indent=2))
    if keep:
        command = f"python benchmarks/checkpoints.py{' --export' if exports else ''} --keep"
        click.echo(record("checkpoints", command, figures))


def _load(write: Callable[[Path], Path]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder))
        files = path.iterdir() if path.is_dir() else [path]
        size = sum(file.stat().st_size for file in files)
        done = subprocess.run(
            [sys.executable, "-c", LOAD, str(path)], capture_output=True, text=True, check=True
        )
    found = json.loads(done.stdout)
    return {"file_bytes": size, **found, "peak_share": found["peak_bytes"] / found["weight_bytes"]}


def _export() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path, out = write_official(Path(folder)), Path(folder) / "bundle"
        started = time.perf_counter()
        report = export_bundle(str(path), out, batch=2, on_stage=lambda stage: _say(started, stage))
        seconds = time.perf_counter() - started
        bundle = open_bundle(out)
        goldens = read_goldens(bundle.path(bundle.manifest.goldens))
        compared = compare(
            Pipeline.from_bundle(out, backend="onnxruntime"), goldens, reference="the goldens"
        )
        return {
            "seconds": seconds,
            "relative_l2": report.parity.worst,
            "steps": len(compared.step_relative_l2),
            "psnr_db": compared.psnr_db_median,
            "passes": {done.name: len(done.rewritten) for done in report.passes},
        }


def _say(started: float, stage: str) -> None:
    click.echo(f"{time.perf_counter() - started:6.0f} s  {stage}", err=True)


if __name__ == "__main__":
    main()
