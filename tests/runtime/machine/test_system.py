import subprocess
from pathlib import Path

import numpy as np
import pytest

from pitstop.runtime.machine import system as machine
from pitstop.runtime.machine.system import installed_versions, this_machine


def put_nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A program of that name that does what ``script`` says, and no other."""
    program = folder / "nvidia-smi"
    program.write_text(script)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_this_machine_says_what_it_is() -> None:
    found = this_machine()

    assert found.cores >= 1
    assert found.system
    assert found.processor
    assert found.python.startswith("3.")
    assert found.packages["numpy"] == np.__version__
    if found.memory_bytes is not None and found.free_bytes is not None:
        assert 2**20 < found.free_bytes <= found.memory_bytes


def test_packages_that_are_not_installed_are_left_out() -> None:
    assert installed_versions(["numpy", "no-such-package"]) == {"numpy": np.__version__}


def test_a_gpu_is_a_line_of_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ("NVIDIA T4, 570.1, 15360 MiB", "NVIDIA A2, 570.1, 15356 MiB")
    put_nvidia_smi(tmp_path, monkeypatch, "#!/bin/sh\n" + "".join(f"echo '{x}'\n" for x in lines))
    assert this_machine().gpus == lines


@pytest.mark.parametrize("script", ["#!/bin/sh\nexit 9\n", "#!/no/such/interpreter\n"])
def test_an_nvidia_smi_that_fails_is_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    put_nvidia_smi(tmp_path, monkeypatch, script)
    assert this_machine().gpus == ()


def test_an_nvidia_smi_that_hangs_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(asked: list[str], **options: float) -> None:
        raise subprocess.TimeoutExpired(asked, options["timeout"])

    monkeypatch.setattr(machine.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(machine.subprocess, "run", hang)
    assert this_machine().gpus == ()


def test_without_nvidia_smi_there_is_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert this_machine().gpus == ()
