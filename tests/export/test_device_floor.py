"""An engine's estimated floor of time on a device."""

from __future__ import annotations

import dataclasses

import pytest

from pitstop.export.device_floor import DEVICES, Device, device_called, devices_of, floor
from pitstop.export.engine_cost import Kernel
from pitstop.export.engines.layers import BITS, Layer, Tensor

SLOW = Device("slow", "8.9", bandwidth=1e9, peaks={"Half": 1e9, "Int8": 4e9}, launch=1e-3)


def kernel(values: int, dtype: str = "Half", *, flops: int = 0, constants: int = 0) -> Kernel:
    read, weights = Tensor("x", (values,), dtype), Tensor("w", (constants,), dtype)
    return Kernel(Layer("a", "gemm", (read,), (weights,), (), ()), "", (), flops)


@pytest.mark.parametrize(
    ("one", "seconds", "bound"),
    [
        (kernel(1), 1e-3, "launch"),
        (kernel(1_000_000), 2e-3, "bytes"),
        (kernel(500_000, constants=500_000), 2e-3, "bytes"),
        (kernel(1_000_000, "Int8", flops=1), 1e-3, "launch"),
        (kernel(1, flops=4_000_000), 4e-3, "FLOPs"),
        (kernel(1, "Int8", flops=8_000_000), 2e-3, "FLOPs"),
        (kernel(1, "FP8", flops=8_000_000), 2e-3, "FLOPs"),  # as the fastest that is known
    ],
)
def test_a_kernel_takes_as_long_as_what_it_waits_for(
    one: Kernel, seconds: float, bound: str
) -> None:
    found = floor([one], SLOW)

    assert found.seconds == pytest.approx(seconds)
    assert found.bound == {bound: 1}


def test_a_call_takes_the_sum_of_its_kernels() -> None:
    found = floor([kernel(1), kernel(1_000_000), kernel(1)], SLOW)

    assert found.seconds == pytest.approx(4e-3)
    assert found.bound == {"launch": 2, "bytes": 1}
    assert floor([], SLOW).seconds == 0


def test_every_device_has_figures_for_what_engines_multiply_in() -> None:
    for device in DEVICES:
        assert set(device.peaks) <= set(BITS)
        assert (
            device.peak("Float") < device.peak("Half") < device.peak("Int8") <= device.peak("FP8")
        )
        assert ("FP8" in device.peaks) is (device.capability not in ("8.6", "8.7"))
        assert 1e-6 <= device.launch <= 1e-5
        assert 5e10 < device.bandwidth < 1e13


def test_devices_are_found_by_capability_and_by_the_drivers_name() -> None:
    assert [device.name for device in devices_of("12.0")] == ["NVIDIA GeForce RTX 5090"]
    assert devices_of("7.5") == []
    assert device_called("NVIDIA H200") in DEVICES
    assert device_called("NVIDIA GeForce RTX 4060 Ti") is None
    assert len({device.name for device in DEVICES}) == len(DEVICES)


def test_on_a_faster_device_nothing_takes_longer() -> None:
    fast = dataclasses.replace(SLOW, bandwidth=2e9, launch=5e-4)

    for one in (kernel(1), kernel(1_000_000), kernel(1, flops=4_000_000)):
        assert floor([one], fast).seconds <= floor([one], SLOW).seconds
