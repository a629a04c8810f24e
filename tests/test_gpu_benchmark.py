"""benchmarks/gpu.py without a GPU: it says so, or shows that it runs."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pitstop.runtime.machine.driver import read_driver

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu.py"


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.skipif(read_driver().problem is None, reason="this machine has an NVIDIA GPU")
@pytest.mark.parametrize("options", [[], ["--quick"]])
def test_without_a_cuda_device_it_says_so_in_one_line(options: list[str]) -> None:
    done = start(*options)

    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("gpu.py: there is no CUDA device to measure: no NVIDIA GPU found")


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--quick"]])
def test_a_tiny_run_compares_pytorch_and_onnx_runtime(options: list[str]) -> None:
    done = start("--tiny", *options)

    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if "relative L2" in line]
    assert [row.split("fp32")[0].strip() for row in rows] == ["torch eager", "onnxruntime CPU"]
    assert all(float(row.split("relative L2")[1]) < 1e-5 for row in rows)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return importlib.import_module("gpu")


@pytest.mark.slow
def test_a_part_that_takes_too_long_is_ended_with_what_it_began(gpu: Any) -> None:
    started = time.monotonic()

    with pytest.raises(TimeoutError, match="it was not done after 1 s"):
        gpu._apart("prepare", ["pit-xl-2", 2, "cpu", "/no/such/folder", "none"], 1.0)

    assert time.monotonic() - started < 10


@pytest.mark.slow
def test_a_part_that_fails_says_why_in_its_last_line(gpu: Any) -> None:
    with pytest.raises(RuntimeError) as told:
        gpu._apart("prepare", ["no-such-preset", 2, "cpu", "/no/such/folder", "none"], 60.0)

    assert "no-such-preset" in gpu._reason(told.value)
