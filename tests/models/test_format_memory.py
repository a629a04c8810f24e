"""What reading a large checkpoint of other people's takes, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from format_helpers import Shape, dit_weights, repa_weights_of, write_dit, write_training

LARGE = Shape(width=1152, depth=6, heads=16, grid=16, mlp=4608, classes=1000)  # 0.6 GB
LIMIT = 2.2  # times the size of the weights that are read
LOAD = """
import json, sys
from pitstop.models.checkpoint import load_checkpoint

def status(name):
    fields = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
    return int(fields[name].split()[0]) * 1024

before = status("VmRSS")
checkpoint = load_checkpoint(sys.argv[1])
weights = sum(tensor.nbytes for tensor in checkpoint.model.state_dict().values())
print(json.dumps({"peak": status("VmHWM") - before, "weights": weights}))
"""


def write_folder(folder: Path) -> Path:
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

    model = DiTTransformer2DModel(num_layers=LARGE.depth)
    weights = model.state_dict()
    first = "transformer_blocks.0.norm1.emb."
    for name in weights:
        if ".norm1.emb." in name:
            weights[name] = weights[first + name.split(".norm1.emb.")[1]]
    model.load_state_dict(weights)
    model.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "write",
    [
        lambda folder: write_dit(folder / "a.pt", dit_weights(LARGE)),
        lambda folder: write_training(folder / "a.pt", dit_weights(LARGE)),
        lambda folder: write_dit(
            folder / "a.pt", {name: t.half() for name, t in dit_weights(LARGE).items()}
        ),
        lambda folder: write_training(folder / "a.pt", repa_weights_of(LARGE)),
        lambda folder: write_folder(folder / "transformer"),
    ],
    ids=["dit", "training", "half", "repa", "diffusers"],
)
def test_reading_takes_little_more_than_the_weights(
    write: Callable[[Path], Path], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    path = write(tmp_path)

    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(path)], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["peak"] < LIMIT * found["weights"], found["peak"] / found["weights"]
