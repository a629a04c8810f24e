"""What machine this is: processor, memory, GPU, JetPack, and the libraries that are installed."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .cpu import cpu_features, cpuinfo
from .nvidia import is_jetson, read_jetpack

JETSON = "Jetson"

PACKAGES = (
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-ep-nv-tensorrt-rtx-cu13",
    "openvino",
    "tensorrt",
    "tensorrt-rtx-cu13-bindings",
    "cuda-bindings",
    "torch",
    "onnx",
)


@dataclass(frozen=True)
class Machine:
    """A machine, as far as it matters to sampling.

    Attributes:
        system: Operating system and architecture.
        python: Python's version.
        processor: The CPU's name.
        cpu_features: Those that precisions differ by, as `machine.cpu` names them.
        cores: CPUs that this process may use.
        memory_bytes: Main memory in all; None where the system does not tell.
        free_bytes: Main memory that is free now, or None.
        gpus: Name, driver and memory of each NVIDIA GPU.
        jetpack: The Jetson's release, or None.
        packages: Versions of the installed packages that matter.
    """

    system: str
    python: str
    processor: str
    cpu_features: tuple[str, ...]
    cores: int
    memory_bytes: int | None
    free_bytes: int | None
    gpus: tuple[str, ...]
    jetpack: str | None
    packages: Mapping[str, str]


def platform_name() -> str:
    """Operating system and processor, such as ``Linux x86_64`` or ``Linux aarch64 Jetson``."""
    names = [platform.system(), platform.machine(), *([JETSON] if is_jetson() else [])]
    return " ".join(names)


def this_machine() -> Machine:
    """Ask the system; what it does not tell is None or empty."""
    memory = _memory()
    return Machine(
        system=platform_name(),
        python=platform.python_version(),
        processor=_processor(),
        cpu_features=cpu_features(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1,
        memory_bytes=memory.get("MemTotal"),
        free_bytes=memory.get("MemAvailable"),
        gpus=_gpus(),
        jetpack=read_jetpack(),
        packages=installed_versions(PACKAGES),
    )


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those of ``packages`` that are installed."""
    installed = {}
    for package in packages:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed


def _processor() -> str:
    for line in cpuinfo():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory() -> dict[str, int]:
    """Bytes by name, from /proc/meminfo, which counts in KiB."""
    fields = (line.split() for line in _lines(Path("/proc/meminfo")))
    return {name.rstrip(":"): int(kib) * 1024 for name, kib, *_ in fields}


def _gpus() -> tuple[str, ...]:
    if shutil.which("nvidia-smi") is None:
        return ()
    asked = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):  # a driver that hangs: no GPU to use either
        return ()
    return tuple(done.stdout.splitlines()) if done.returncode == 0 else ()


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines() if path.is_file() else []
