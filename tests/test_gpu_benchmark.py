"""benchmarks/gpu.py without a GPU: it says so, or shows that it runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pitstop.runtime.machine.driver import read_driver

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu.py"


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.skipif(read_driver().problem is None, reason="this machine has an NVIDIA GPU")
def test_without_a_cuda_device_it_says_so_in_one_line() -> None:
    done = start()

    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("gpu.py: there is no CUDA device to measure: no NVIDIA GPU found")


@pytest.mark.slow
def test_a_tiny_run_compares_pytorch_and_onnx_runtime() -> None:
    done = start("--tiny")

    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if "relative L2" in line]
    assert [row.split("fp32")[0].strip() for row in rows] == ["torch eager", "onnxruntime CPU"]
    assert all(float(row.split("relative L2")[1]) < 1e-5 for row in rows)
