"""What a CPU calculates in one go, as far as precisions differ by it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
# Each feature by what Linux calls it: x86's, then Arm's.
FLAGS = {
    "AVX2": {"avx2"},
    "AVX512": {"avx512f"},
    "AVX512-BF16": {"avx512_bf16"},
    "VNNI": {"avx512_vnni", "avx_vnni"},
    "AMX-INT8": {"amx_int8"},
    "AMX-BF16": {"amx_bf16"},
    "DOTPROD": {"asimddp"},
    "I8MM": {"i8mm"},
    "BF16": {"bf16"},
}
EXACT_INT8 = ("VNNI", "AMX-INT8")  # 8-bit products are summed in 32 bits


def cpu_features() -> tuple[str, ...]:
    """This CPU's features, as far as Linux tells, in `FLAGS`'s order."""
    flags = set(_flags(cpuinfo()))
    return tuple(name for name, names in FLAGS.items() if names & flags)


def why_int8_saturates(features: Collection[str]) -> str | None:
    """Say why sums of int8 products are cut off on an x86 CPU, or None where they are not.

    Without VNNI a pair of products of an 8-bit and an unsigned 8-bit number is summed in 16 bits,
    which hold less than the largest of them (VPMADDUBSW); weights of 7 bits keep the sums within.
    """
    if "AVX2" not in features or any(name in features for name in EXACT_INT8):
        return None
    return "this CPU has neither VNNI nor AMX: sums of 8-bit products are cut off at 16 bits"


def fastest_precision(features: Collection[str]) -> str | None:
    """Of a denoiser on a CPU, with OpenVINO; None where none was measured.

    int8 where 8-bit products are summed at once (docs/bench.md), fp32 on x86 without: there the
    kernels of bf16 and int8 convert more than they save.
    """
    if any(name in features for name in EXACT_INT8):
        return "int8"
    return "fp32" if "AVX2" in features else None


def cpuinfo() -> list[str]:
    """What Linux tells of the CPUs, in lines; nothing elsewhere."""
    return CPUINFO.read_text(errors="replace").splitlines() if CPUINFO.is_file() else []


def _flags(lines: Iterable[str]) -> list[str]:
    for line in lines:
        name, _, flags = line.partition(":")
        if name.strip() in {"flags", "Features"}:
            return flags.split()
    return []
