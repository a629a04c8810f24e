"""What a CPU can do, read from what Linux tells of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pitstop.runtime.machine import cpu
from pitstop.runtime.machine.cpu import cpu_features, fastest_precision, why_int8_saturates

CPUINFO = """processor\t: 0
model name\t: some CPU
{name}\t\t: fpu sse2 {flags}

processor\t: 1
{name}\t\t: fpu
"""


@pytest.mark.parametrize(
    ("name", "flags", "features", "exact"),
    [
        ("flags", "avx avx2", ("AVX2",), False),
        ("flags", "avx2 avx_vnni", ("AVX2", "VNNI"), True),
        ("flags", "avx2 avx512f", ("AVX2", "AVX512"), False),
        (
            "flags",
            "avx2 avx512f avx512_bf16 avx512_vnni",
            ("AVX2", "AVX512", "AVX512-BF16", "VNNI"),
            True,
        ),
        (
            "flags",
            "avx2 avx512f amx_tile amx_int8 amx_bf16",
            ("AVX2", "AVX512", "AMX-INT8", "AMX-BF16"),
            True,
        ),
        ("Features", "asimd asimddp i8mm bf16", ("DOTPROD", "I8MM", "BF16"), True),
        ("flags", "", (), True),
    ],
)
def test_a_cpus_features_tell_whether_int8_is_exact(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    flags: str,
    features: tuple[str, ...],
    exact: bool,
) -> None:
    told = tmp_path / "cpuinfo"
    told.write_text(CPUINFO.format(name=name, flags=flags))
    monkeypatch.setattr(cpu, "CPUINFO", told)

    found = cpu_features()

    assert found == features
    assert (why_int8_saturates(found) is None) is exact


def test_a_system_that_tells_nothing_has_no_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "none")

    assert cpu_features() == ()


@pytest.mark.parametrize(
    ("features", "fastest"),
    [
        (("AVX2", "AVX512", "VNNI"), "int8"),
        (("AVX2", "AMX-INT8"), "int8"),
        (("AVX2",), "fp32"),
        (("AVX2", "AVX512"), "fp32"),
        (("DOTPROD",), None),
        ((), None),
    ],
)
def test_the_fastest_precision_goes_by_how_int8_is_summed(
    features: tuple[str, ...], fastest: str | None
) -> None:
    assert fastest_precision(features) == fastest
