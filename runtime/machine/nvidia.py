"""NVIDIA's software on this machine: driver, CUDA, TensorRT, and the Jetson's release.

Asked of files, `nvidia-smi` and the package database, so that it works where none of it does. On a
Jetson `nvidia-smi` says little: the GPU has the machine's own memory.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .driver import Gpu, read_driver

DRIVER_FILE = Path("/proc/driver/nvidia/version")
TOOLKIT_FILE = Path("/usr/local/cuda/version.json")
JETSON_FILE = Path("/etc/nv_tegra_release")
SECONDS = 30  # that a program may take to answer

# Which installed packages tell a version: the wheel's, or Debian's beside JetPack.
CUDA_RUNTIMES = ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu13", "nvidia-cuda-runtime-cu12")
TENSORRTS = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
TENSORRT_RTXS = ("tensorrt-rtx", "tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings")


@dataclass(frozen=True)
class Nvidia:
    """What a user of NVIDIA's backends must know of a machine; None where it is not there.

    Attributes:
        gpus: In CUDA's order.
        problem: Why none can be used, or None.
        driver: Of the kernel, such as ``570.86.15``.
        cuda_driver: The newest CUDA that the driver runs, such as ``12.8``.
        cuda_runtime: The CUDA that is installed.
        free_bytes: Free memory of each GPU, None where it is not told; empty on a Jetson, whose
            memory is the machine's.
        tensorrt: Version of TensorRT for this Python.
        tensorrt_rtx: Version of TensorRT-RTX for this Python.
        jetpack: The Jetson's release, or None.
    """

    gpus: tuple[Gpu, ...]
    problem: str | None
    driver: str | None
    cuda_driver: str | None
    cuda_runtime: str | None
    free_bytes: tuple[int | None, ...]
    tensorrt: str | None
    tensorrt_rtx: str | None
    jetpack: str | None


def read_nvidia() -> Nvidia:
    """Ask for all of it."""
    cuda = read_driver()
    return Nvidia(
        gpus=cuda.gpus,
        problem=cuda.problem,
        driver=parse_driver(_read(DRIVER_FILE)),
        cuda_driver=cuda.cuda_version,
        cuda_runtime=parse_toolkit(_read(TOOLKIT_FILE)) or _first_installed(CUDA_RUNTIMES),
        free_bytes=parse_free(ask_smi("memory.free")),
        tensorrt=_first_installed(TENSORRTS),
        tensorrt_rtx=_first_installed(TENSORRT_RTXS),
        jetpack=read_jetpack(),
    )


def is_jetson() -> bool:
    return parse_tegra(_read(JETSON_FILE)) is not None


@functools.cache
def cuda_major_of(package: str) -> str:
    """The major version of CUDA that a package is of, such as ``13``; empty where nothing tells.

    Wheels have it in their names: ``tensorrt-cu13-libs``. What came without one, as on a Jetson, is
    of the toolkit beside it.
    """
    wheel = re.compile(rf"{package}-cu(\d+)(-\w+)?")
    for installed in metadata.distributions():
        named = installed.name or ""  # an interrupted pip leaves a folder without one
        name = re.sub(r"[-_.]+", "-", named).lower()
        if found := wheel.fullmatch(name):
            return found[1]
    return (parse_toolkit(_read(TOOLKIT_FILE)) or "").partition(".")[0]


def read_jetpack() -> str | None:
    """The release of a Jetson, such as ``Jetson Linux 36.4.3, JetPack 6.2+b77``; None elsewhere."""
    linux = parse_tegra(_read(JETSON_FILE))
    if linux is None:
        return None
    asked = ["dpkg-query", "--show", "--showformat", "${Version}", "nvidia-jetpack"]
    package = _answer(asked).strip()
    return f"Jetson Linux {linux}" + (f", JetPack {package}" if package else "")


def parse_tegra(text: str) -> str | None:
    """``36.4.3`` of ``# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, ...``."""
    found = re.match(r"# R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"{found[1]}.{found[2]}" if found else None


def parse_driver(text: str) -> str | None:
    """The version in the first line of the kernel module's file."""
    found = re.search(r"^NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return found[1] if found else None


def parse_toolkit(text: str) -> str | None:
    """CUDA's version in the toolkit's ``version.json``."""
    try:
        return str(json.loads(text)["cuda"]["version"])
    except (ValueError, KeyError, TypeError):  # none, or of a form that says nothing to us
        return None


def parse_free(text: str) -> tuple[int | None, ...]:
    """Bytes of each line of ``nvidia-smi``'s MiB; a Jetson answers ``[N/A]``."""
    lines = (line.strip() for line in text.splitlines())
    return tuple(int(line) << 20 if line.isdecimal() else None for line in lines if line)


def ask_smi(field: str) -> str:
    """A line for each GPU, or nothing."""
    return _answer(["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"])


def _answer(asked: Sequence[str]) -> str:
    """What a program says, or nothing where it is not there, fails or hangs."""
    if shutil.which(asked[0]) is None:
        return ""
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _first_installed(packages: Sequence[str]) -> str | None:
    for package in packages:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return None


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""
