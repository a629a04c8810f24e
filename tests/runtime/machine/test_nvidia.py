"""What NVIDIA's files and programs say, in the forms in which they say it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from pitstop.runtime.machine import nvidia
from pitstop.runtime.machine.nvidia import (
    parse_driver,
    parse_free,
    parse_tegra,
    parse_toolkit,
    read_jetpack,
    read_nvidia,
)
from pitstop.runtime.machine.system import platform_name, this_machine

ORIN = (
    "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, "
    "DATE: Wed Jan  8 01:49:37 UTC 2025\n# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n"
)
DESKTOP = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n"
    "GCC version:  gcc version 11.4.0 (Ubuntu 11.4.0-1ubuntu1~22.04)\n"
)
OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build  "
    "(buildbrain@mobile-u64-6519-d7000)  Wed Jan  8 01:35:48 UTC 2025\n"
)


@pytest.mark.parametrize(
    ("text", "release"),
    [
        (ORIN, "36.4.3"),
        ("# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref\n", "35.4.1"),
        ("", None),
        ("something else\n", None),
    ],
)
def test_a_jetsons_release_is_read(text: str, release: str | None) -> None:
    assert parse_tegra(text) == release


@pytest.mark.parametrize(
    ("text", "version"), [(DESKTOP, "535.104.05"), (OPEN, "540.4.0"), ("", None), ("NVRM\n", None)]
)
def test_a_drivers_version_is_read(text: str, version: str | None) -> None:
    assert parse_driver(text) == version


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ('{"cuda": {"name": "CUDA SDK", "version": "12.6.11"}}', "12.6.11"),
        ('{"cuda": {}}', None),
        ("[]", None),
        ("not json", None),
        ("", None),
    ],
)
def test_the_toolkits_version_is_read(text: str, version: str | None) -> None:
    assert parse_toolkit(text) == version


@pytest.mark.parametrize(
    ("text", "free"),
    [
        ("15102\n24\n", (15102 << 20, 24 << 20)),
        ("[N/A]\n", (None,)),
        ("[Not Supported]\n", (None,)),
        ("", ()),
    ],
)
def test_free_memory_is_read(text: str, free: tuple[int | None, ...]) -> None:
    assert parse_free(text) == free


def test_a_jetson_is_known_by_its_release_and_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "release").write_text(ORIN)
    query = tmp_path / "dpkg-query"
    query.write_text("#!/bin/sh\nprintf '6.2+b77'\n")
    query.chmod(0o755)
    monkeypatch.setattr(nvidia, "JETSON_FILE", tmp_path / "release")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    assert read_jetpack() == "Jetson Linux 36.4.3, JetPack 6.2+b77"
    assert this_machine().jetpack == read_jetpack()


def test_a_jetson_without_the_package_is_known_by_its_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "release").write_text(ORIN)
    monkeypatch.setattr(nvidia, "JETSON_FILE", tmp_path / "release")
    monkeypatch.setenv("PATH", str(tmp_path))

    assert read_jetpack() == "Jetson Linux 36.4.3"


@pytest.mark.parametrize("content", [None, ""])
def test_another_machine_is_no_jetson(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "release").write_text(content)
    monkeypatch.setattr(nvidia, "JETSON_FILE", tmp_path / "release")

    assert read_jetpack() is None


def test_a_machine_without_any_of_it_answers_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("DRIVER_FILE", "TOOLKIT_FILE", "JETSON_FILE"):
        monkeypatch.setattr(nvidia, name, tmp_path / "nothing")

    found = read_nvidia()

    assert found.driver is None
    assert found.jetpack is None
    assert found.free_bytes == ()


def wheels(*names: str) -> list[SimpleNamespace]:
    return [SimpleNamespace(name=name) for name in names]


@pytest.mark.parametrize(
    ("package", "installed", "toolkit", "major"),
    [
        ("tensorrt", ["numpy", "tensorrt", "tensorrt_cu12", "tensorrt_cu12_libs"], "13.0", "12"),
        ("tensorrt", ["tensorrt-rtx-cu13-bindings", "tensorrt-dispatch-cu13"], "12.6.11", "12"),
        ("tensorrt-rtx", ["tensorrt_cu12", "tensorrt_rtx_cu13_bindings"], None, "13"),
        ("tensorrt", ["tensorrt"], None, ""),
    ],
)
def test_the_cuda_of_a_package_is_told_by_its_wheels_or_the_toolkit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    installed: list[str],
    toolkit: str | None,
    major: str,
) -> None:
    if toolkit is not None:
        (tmp_path / "version.json").write_text(f'{{"cuda": {{"version": "{toolkit}"}}}}')
    monkeypatch.setattr(nvidia, "TOOLKIT_FILE", tmp_path / "version.json")
    monkeypatch.setattr(nvidia.metadata, "distributions", lambda: wheels(*installed))

    assert nvidia.cuda_major_of.__wrapped__(package) == major


def test_a_jetson_is_a_platform_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the processor of other machines, and a TensorRT of its own."""
    monkeypatch.setattr(nvidia, "JETSON_FILE", tmp_path / "release")
    elsewhere = platform_name()
    (tmp_path / "release").write_text(ORIN)

    assert platform_name() == f"{elsewhere} Jetson"


def test_a_package_without_a_name_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted pip leaves such folders."""
    (tmp_path / "broken-1.0.dist-info").mkdir()
    (tmp_path / "broken-1.0.dist-info" / "METADATA").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(nvidia, "TOOLKIT_FILE", tmp_path / "no-toolkit.json")
    nvidia.cuda_major_of.cache_clear()

    assert nvidia.cuda_major_of("no-such-package") == ""
