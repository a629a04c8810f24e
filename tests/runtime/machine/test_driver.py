"""What libcuda says. It is made up here: no machine of the tests has all these troubles."""

from __future__ import annotations

from typing import Any

import pytest

from pitstop.runtime.machine import driver as gpu
from pitstop.runtime.machine.driver import NO_GPU, Gpu, ask_driver, cuda_version, read_driver


class MadeUpCuda:
    """Answers as libcuda does, and writes its answers where it is told to."""

    def __init__(self, *, init: int = 0, count: int = 1, version: int = 12060) -> None:
        self.init, self.count, self.version = init, count, version
        self.attributes = {75: 8, 76: 7, 18: 1}

    def cuInit(self, flags: int) -> int:
        return self.init

    def cuDeviceGetCount(self, place: Any) -> int:
        place._obj.value = self.count
        return 0

    def cuDriverGetVersion(self, place: Any) -> int:
        place._obj.value = self.version
        return 0

    def cuDeviceGet(self, place: Any, index: int) -> int:
        place._obj.value = index
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
        name.value = b"Orin"
        return 0

    def cuDeviceTotalMem_v2(self, place: Any, device: Any) -> int:
        place._obj.value = 8 << 30
        return 0

    def cuDeviceGetAttribute(self, place: Any, which: int, device: Any) -> int:
        place._obj.value = self.attributes[which]
        return 0


def test_a_gpu_is_told_as_the_driver_tells_it() -> None:
    found = ask_driver(MadeUpCuda())  # type: ignore[arg-type]

    assert found.problem is None
    assert found.cuda_version == "12.6"
    assert found.gpus == (Gpu("Orin", "8.7", 8 << 30, integrated=True),)


@pytest.mark.parametrize(
    ("cuda", "words"),
    [
        (MadeUpCuda(init=100), NO_GPU),
        (MadeUpCuda(count=0), NO_GPU),
        (MadeUpCuda(init=803), "error 803, the kernel's driver and libcuda.so.1 are of different"),
        (MadeUpCuda(init=35), "error 35, it is older"),
        (MadeUpCuda(init=7), "error 7, see CUresult"),
    ],
)
def test_a_driver_without_a_gpu_says_why(cuda: Any, words: str) -> None:
    found = ask_driver(cuda)

    assert found.gpus == ()
    assert found.problem is not None
    assert words in found.problem


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "LIBRARY", "libno-such-library.so.1")

    found = read_driver.__wrapped__()

    assert found.gpus == ()
    assert str(found.problem).startswith(NO_GPU)


@pytest.mark.parametrize(("number", "words"), [(12060, "12.6"), (13000, "13.0"), (11040, "11.4")])
def test_a_version_is_written_as_people_write_it(number: int, words: str) -> None:
    assert cuda_version(number) == words
