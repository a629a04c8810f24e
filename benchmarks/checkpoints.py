"""A DiT-XL/2 in other people's formats: what reading it takes.

The weights are random, in files of the full size. Memory is the resident size of a process of its
own above what its imports take, mapped pages of the file counted; it is given over the size of the
weights in fp32.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from record import record

from pitstop.models.presets import load_preset

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
@click.option("--keep", is_flag=True, help="Write the figures to results/checkpoints.json.")
def main(keep: bool) -> None:
    """Write each file, read it in a process of its own, print."""
    figures: dict[str, Any] = {"load": {name: _load(write) for name, write in FILES.items()}}
    click.echo(json.dumps(figures, indent=2))
    if keep:
        click.echo(record("checkpoints", figures))


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


if __name__ == "__main__":
    main()
