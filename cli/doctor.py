"""``pitstop doctor``: what this machine can run, and what to install for the rest."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from .printing import console, json_option, pairs, write_json


@click.command()
@json_option
def doctor(json_path: Path | None) -> None:
    """Tell processor, memory, GPU, packages, and which backends work here and why others do not.

    Example: pitstop doctor
    """
    from ..runtime.backends import backend_names, import_backend
    from ..runtime.machine import this_machine

    machine = this_machine()
    reasons = {name: import_backend(name).why_not() for name in backend_names()}
    write_json(json_path, {**dataclasses.asdict(machine), "backends": reasons})
    packages = ", ".join(f"{name} {version}" for name, version in machine.packages.items())
    console.print(
        pairs([
            ("system", f"{machine.system}, Python {machine.python}"),
            ("processor", f"{machine.processor}, {machine.cores} cores"),
            ("memory", f"{_gib(machine.memory_bytes)}, {_gib(machine.free_bytes)} free"),
            ("GPU", "; ".join(machine.gpus) or "none that nvidia-smi shows"),
            ("JetPack", machine.jetpack or "no Jetson"),
            ("packages", packages),
            *((f"backend {name}", reason or "works") for name, reason in reasons.items()),
        ]),
        markup=False,
    )


def _gib(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 2**30:.1f} GiB"
