"""An estimate of how fast an engine's kernels could be on a device, from the maker's figures.

    sum over kernels of max(launch, bytes / bandwidth, FLOPs / peak of the type)

Nothing is measured. A kernel whose tensors stay in the L2 cache can be faster than this; hardly any
reaches the peaks, and what the host does is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .engine_cost import Kernel

# Assumptions, in seconds: what a kernel takes at least in a CUDA graph. NVIDIA's "Getting Started
# with CUDA Graphs" gives 3.4 us for one that needs 2.9 by itself. No figure was found for Jetsons,
# whose clocks are about half of a card's.
CARD, JETSON = 3e-6, 6e-6
LAUNCH, BYTES, FLOPS = "launch", "bytes", "FLOPs"


@dataclass(frozen=True)
class Device:
    """What its maker publishes of a GPU.

    Attributes:
        name: The driver's; of a Jetson, whose driver does not tell them apart, the module's.
        capability: Its compute capability.
        bandwidth: Of its memory, in bytes a second.
        peaks: FLOPs a second by the type that is multiplied: fp32 without tensor cores, the others
            with them, dense, accumulated in the type that is fastest.
        launch: What a kernel takes at least, in seconds: an assumption.
    """

    name: str
    capability: str
    bandwidth: float
    peaks: Mapping[str, float]
    launch: float = CARD

    def peak(self, dtype: str) -> float:
        """Of a type of the library's; of the fastest where the maker gives none."""
        return self.peaks.get(dtype, max(self.peaks.values()))


@dataclass(frozen=True)
class Floor:
    """An estimate for one call.

    Attributes:
        seconds: That it takes at least.
        bound: How many kernels wait for what: ``launch``, ``bytes`` or ``FLOPs``.
    """

    seconds: float
    bound: Mapping[str, int] = field(default_factory=dict)


def _tera(fp32: float, fp16: float, int8: float, fp8: float | None = None) -> dict[str, float]:
    peaks = {"Float": fp32, "Half": fp16, "BFloat16": fp16, "Int8": int8}
    return {name: 1e12 * peak for name, peak in (peaks | ({"FP8": fp8} if fp8 else {})).items()}


# NVIDIA's data sheets of the modules, without their DLAs, Orin Nano in its Super mode; the white
# papers of Ampere GA102, Ada and RTX Blackwell (cards that these leave out by cores and boost
# clock); the data sheets of H100 SXM and H200.
DEVICES = (
    Device("Orin Nano 8 GB", "8.7", 102e9, _tera(2.1, 17, 33), JETSON),
    Device("Orin NX 16 GB", "8.7", 102e9, _tera(1.9, 15, 30), JETSON),
    Device("AGX Orin 64 GB", "8.7", 205e9, _tera(5.3, 42.5, 85), JETSON),
    Device("NVIDIA GeForce RTX 3060", "8.6", 360e9, _tera(12.7, 51, 102)),
    Device("NVIDIA GeForce RTX 4060", "8.9", 272e9, _tera(15.1, 60, 121, 121)),
    Device("NVIDIA GeForce RTX 4090", "8.9", 1008e9, _tera(82.6, 330, 661, 661)),
    Device("NVIDIA GeForce RTX 5090", "12.0", 1792e9, _tera(104.8, 419, 838, 838)),
    Device("NVIDIA H100 80GB HBM3", "9.0", 3350e9, _tera(66.9, 989, 1979, 1979)),
    Device("NVIDIA H200", "9.0", 4800e9, _tera(66.9, 989, 1979, 1979)),
)


def devices_of(capability: str) -> list[Device]:
    """Those in the table that an engine for a compute capability is for."""
    return [device for device in DEVICES if device.capability == capability]


def device_called(name: str) -> Device | None:
    """The device that the driver calls so, or None where the table has none."""
    return next((device for device in DEVICES if device.name == name), None)


def floor(kernels: Sequence[Kernel], device: Device) -> Floor:
    """The estimate for a call of an engine with these kernels."""
    seconds, bound = 0.0, Counter[str]()
    for kernel in kernels:
        moved = kernel.activation_bytes + kernel.layer.constant_bytes
        needs = {LAUNCH: device.launch, BYTES: moved / device.bandwidth}
        if kernel.dtype is not None:
            needs[FLOPS] = kernel.flops / device.peak(kernel.dtype)
        longest = max(needs, key=needs.__getitem__)
        bound[longest] += 1
        seconds += needs[longest]
    return Floor(seconds, bound)
