"""``pitstop doctor``: on this machine, and on one that has a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_helpers import run

from pitstop.runtime.backends import backend_names
from pitstop.runtime.machine import cpu, nvidia
from pitstop.runtime.machine.driver import Gpu, read_driver
from pitstop.runtime.machine.nvidia import Nvidia

JETSON = Nvidia(
    gpus=(Gpu("Orin", "8.7", 8 << 30, integrated=True),),
    problem=None,
    driver="540.4.0",
    cuda_driver="12.6",
    cuda_runtime="12.6.11",
    free_bytes=(None,),
    tensorrt="10.3.0",
    tensorrt_rtx=None,
    jetpack="Jetson Linux 36.4.3, JetPack 6.2+b77",
)
DESKTOP = Nvidia(
    gpus=(Gpu("NVIDIA A2", "8.6", 15 << 30, integrated=False),),
    problem=None,
    driver="570.86.15",
    cuda_driver="12.8",
    cuda_runtime=None,
    free_bytes=(12 << 30,),
    tensorrt=None,
    tensorrt_rtx="1.7.1",
    jetpack=None,
)


def told(path: Path) -> tuple[str, dict[str, object]]:
    result = run("doctor", "--json", path)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split()), json.loads(path.read_text())


def test_every_backend_and_provider_works_or_says_why_not(tmp_path: Path) -> None:
    text, figures = told(tmp_path / "doctor.json")

    assert list(figures["backends"]) == backend_names()  # type: ignore[call-overload]
    assert "provider NvTensorRTRTX" in text
    assert figures["providers"]["CPUExecutionProvider"] is None  # type: ignore[index]
    for reasons in (figures["backends"], figures["providers"]):
        for reason in reasons.values():  # type: ignore[attr-defined]
            assert reason is None or "\n" not in reason


@pytest.mark.skipif(read_driver().problem is None, reason="this machine has an NVIDIA GPU")
def test_a_machine_without_a_gpu_is_told_in_words(tmp_path: Path) -> None:
    text, figures = told(tmp_path / "doctor.json")

    assert "GPU no NVIDIA GPU found" in text
    assert figures["nvidia"]["gpus"] == []  # type: ignore[index]
    assert "JetPack no Jetson" in text


@pytest.mark.parametrize(
    ("machine", "lines"),
    [
        (
            JETSON,
            [
                "GPU Orin, compute capability 8.7, 8.0 GiB, the machine's own",
                "driver 540.4.0, for CUDA up to 12.6",
                "TensorRT 10.3.0",
                "TensorRT-RTX none for this Python",
                "JetPack Jetson Linux 36.4.3, JetPack 6.2+b77",
            ],
        ),
        (
            DESKTOP,
            [
                "GPU NVIDIA A2, compute capability 8.6, 15.0 GiB, 12.0 GiB free",
                "driver 570.86.15, for CUDA up to 12.8",
                "CUDA none that its files or packages tell",
                "TensorRT none for this Python",
            ],
        ),
    ],
)
def test_a_machine_with_a_gpu_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: Nvidia, lines: list[str]
) -> None:
    monkeypatch.setattr(nvidia, "read_nvidia", lambda: machine)

    text, figures = told(tmp_path / "doctor.json")

    for line in lines:
        assert line in text
    assert figures["nvidia"]["driver"] == machine.driver  # type: ignore[index]


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ("avx2", "choose fp32, or `pitstop calibrate --weight-bits 7`"),
        ("avx2 avx_vnni", "int8 here exact"),
    ],
)
def test_where_int8_is_not_exact_weights_of_7_bits_are_recommended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, features: str, said: str
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"flags : {features}")
    monkeypatch.setattr(cpu, "CPUINFO", cpuinfo)

    text, _ = told(tmp_path / "doctor.json")

    assert said in text
