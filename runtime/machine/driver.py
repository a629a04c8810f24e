"""The NVIDIA GPU of this machine, as its driver tells it; no package is needed to ask.

A GPU that is there but cannot be used is told apart from none, because what to do about it
differs. Asking makes no context on the GPU, so it costs no device memory.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

LIBRARY = "libcuda.so.1"
NO_GPU = "no NVIDIA GPU found"

# Of cuda.h.
NO_DEVICE = 100
COMPUTE_MAJOR, COMPUTE_MINOR, INTEGRATED = 75, 76, 18
WHAT_IT_MEANS = {
    3: "it was left half-loaded",
    35: "it is older than the library that talks to it",
    34: "it is a stub: the real libcuda.so.1 is not installed",
    46: "the GPU is busy or used exclusively",
    803: "the kernel's driver and libcuda.so.1 are of different releases; restart the machine",
    804: "this GPU does not take the forward-compatibility package",
    999: "unknown error; `dmesg` may tell",
}


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        name: As the driver calls it.
        compute_capability: Such as ``8.7``.
        memory_bytes: Of the device; on a Jetson it is the machine's own.
        integrated: Whether it shares the machine's memory.
    """

    name: str
    compute_capability: str
    memory_bytes: int
    integrated: bool


@dataclass(frozen=True)
class Driver:
    """What libcuda says.

    Attributes:
        cuda_version: The newest CUDA that the driver runs, such as ``12.6``; None without one.
        gpus: In CUDA's order.
        problem: Why there is none to use, or None.
    """

    cuda_version: str | None
    gpus: tuple[Gpu, ...]
    problem: str | None


@functools.cache
def read_driver() -> Driver:
    """Ask the driver, once in a process."""
    try:
        cuda = ctypes.CDLL(LIBRARY)
    except OSError:
        return Driver(None, (), f"{NO_GPU} ({LIBRARY}, which is part of its driver, is missing)")
    return ask_driver(cuda)


def why_no_gpu() -> str | None:
    """Say why no NVIDIA GPU can be used here, or None where one can."""
    return read_driver().problem


def ask_driver(cuda: ctypes.CDLL) -> Driver:
    """Ask a loaded libcuda."""
    version, count = ctypes.c_int(), ctypes.c_int()
    code = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    known = cuda.cuDriverGetVersion(ctypes.byref(version)) == 0
    number = cuda_version(version.value) if known else None
    if code == NO_DEVICE or (code == 0 and count.value == 0):
        return Driver(number, (), f"{NO_GPU} (its driver is installed)")
    if code:
        meaning = WHAT_IT_MEANS.get(code, "see CUresult in cuda.h")
        return Driver(number, (), f"the NVIDIA driver does not start: error {code}, {meaning}")
    return Driver(number, tuple(_ask_gpu(cuda, index) for index in range(count.value)), None)


def cuda_version(number: int) -> str:
    """The driver's number as people write it: 12060 is 12.6."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _ask_gpu(cuda: ctypes.CDLL, index: int) -> Gpu:
    device, memory = ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    major, minor, integrated = (
        _attribute(cuda, device, which) for which in (COMPUTE_MAJOR, COMPUTE_MINOR, INTEGRATED)
    )
    return Gpu(
        name.value.decode(errors="replace"), f"{major}.{minor}", memory.value, integrated > 0
    )


def _attribute(cuda: ctypes.CDLL, device: ctypes.c_int, which: int) -> int:
    value = ctypes.c_int()
    cuda.cuDeviceGetAttribute(ctypes.byref(value), which, device)
    return value.value
