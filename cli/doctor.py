"""``pitstop doctor``: what this machine can run, and what to install for the rest."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .printing import console, json_option, pairs, write_json

if TYPE_CHECKING:
    from ..runtime.machine.nvidia import Nvidia
    from ..runtime.machine.system import Machine


@click.command()
@json_option
def doctor(json_path: Path | None) -> None:
    """Tell processor, memory, GPU, packages, and which backends work here and why others do not.

    Example: pitstop doctor
    """
    from ..runtime.backends import backend_names, import_backend
    from ..runtime.machine.nvidia import read_nvidia
    from ..runtime.machine.system import this_machine

    machine, nvidia = this_machine(), read_nvidia()
    backends = {name: import_backend(name).why_not() for name in backend_names()}
    providers = _providers() if backends["onnxruntime"] is None else {}
    figures = {**dataclasses.asdict(machine), "nvidia": dataclasses.asdict(nvidia)}
    write_json(json_path, {**figures, "backends": backends, "providers": providers})
    console.print(
        pairs([
            *_machine_rows(machine),
            *_nvidia_rows(nvidia),
            *((f"backend {name}", reason or "works") for name, reason in backends.items()),
            *((_short(name), reason or "works") for name, reason in providers.items()),
        ]),
        markup=False,
    )


def _providers() -> dict[str, str | None]:
    from ..runtime.backends.onnxruntime import providers_here

    return providers_here()


def _machine_rows(machine: Machine) -> list[tuple[str, str]]:
    packages = ", ".join(f"{name} {version}" for name, version in machine.packages.items())
    return [
        ("system", f"{machine.system}, Python {machine.python}"),
        ("processor", f"{machine.processor}, {machine.cores} cores"),
        ("CPU features", ", ".join(machine.cpu_features) or "none that precisions differ by"),
        ("int8 here", _int8(machine)),
        ("fastest here", _fastest(machine)),
        ("memory", f"{_gib(machine.memory_bytes)}, {_gib(machine.free_bytes)} free"),
        ("packages", packages),
    ]


def _int8(machine: Machine) -> str:
    from ..runtime.machine.cpu import why_int8_saturates

    if not machine.cpu_features:
        return "not known"
    why = why_int8_saturates(machine.cpu_features)
    return (
        f"not exact: {why}; choose fp32, or `pitstop calibrate --weight-bits 7`" if why else "exact"
    )


def _fastest(machine: Machine) -> str:
    from ..runtime.machine.cpu import fastest_precision

    precision = fastest_precision(machine.cpu_features)
    return f"{precision}, on this CPU" if precision else "not measured on such a CPU"


def _nvidia_rows(nvidia: Nvidia) -> list[tuple[str, str]]:
    told = len(nvidia.free_bytes) == len(nvidia.gpus)  # else which is whose is not known
    free = dict(enumerate(nvidia.free_bytes if told else ()))
    gpus = [
        f"{gpu.name}, compute capability {gpu.compute_capability}, {_gib(gpu.memory_bytes)}, "
        + ("the machine's own" if gpu.integrated else f"{_gib(free.get(index))} free")
        for index, gpu in enumerate(nvidia.gpus)
    ]
    return [
        ("GPU", "; ".join(gpus) or nvidia.problem or ""),
        ("driver", _driver(nvidia)),
        ("CUDA", nvidia.cuda_runtime or "none that its files or packages tell"),
        ("TensorRT", nvidia.tensorrt or "none for this Python"),
        ("TensorRT-RTX", nvidia.tensorrt_rtx or "none for this Python"),
        ("JetPack", nvidia.jetpack or "no Jetson"),
    ]


def _driver(nvidia: Nvidia) -> str:
    if nvidia.driver is None and nvidia.cuda_driver is None:
        return "none"
    return f"{nvidia.driver or 'unknown'}, for CUDA up to {nvidia.cuda_driver or 'unknown'}"


def _short(provider: str) -> str:
    return f"provider {provider.removesuffix('ExecutionProvider')}"


def _gib(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 2**30:.1f} GiB"
