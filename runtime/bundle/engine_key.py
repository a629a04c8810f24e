"""What an engine depends on: its content address, and how two of them differ.

An engine is right for one graph with its weights, one builder of one version, and the GPUs that it
was built for. All of it is in the key, in clear text, so that an engine which does not fit is told
from one that does, and why.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from ... import EngineError

HARDWARE_COMPATIBLE = "hardware-compatible"
VERSION_COMPATIBLE = "version-compatible"
AMPERE = (8, 0)  # the first that hardware-compatible engines run on
BUILDERS = ("tensorrt", "tensorrt-rtx")
DIGITS = 16  # of the sha256 that names an engine's folder
SHOWN = 12  # of the sha256s in messages
TITLES = {
    "graph_sha256": "graph",
    "weights_sha256": "weights",
    "precision": "precision",
    "calibration_sha256": "calibration",
    "builder": "builder",
    "builder_version": "builder's version",
    "platform": "platform",
    "compute_capability": "compute capability",
    "flags": "flags",
}


@dataclass(frozen=True)
class EngineKey:
    """The content address of an engine.

    Attributes:
        graph: Its name in the manifest, such as ``denoiser.fp16``.
        graph_sha256: Of the ONNX file.
        weights_sha256: Of the weights beside it, or empty where they are in the file.
        precision: Of the graph.
        calibration_sha256: Of the ranges that an int8 graph was made with, or empty.
        builder: ``tensorrt`` or ``tensorrt-rtx``.
        builder_version: All of it, such as ``10.3.0``.
        platform: Operating system and processor, such as ``Linux aarch64``: a plan holds code of
            both.
        compute_capability: Of the GPUs that it is for, such as ``8.7`` or ``8.6,8.9,12.0``.
        flags: What was asked of the builder, sorted.
    """

    graph: str
    graph_sha256: str
    weights_sha256: str
    precision: str
    calibration_sha256: str
    builder: str
    builder_version: str
    platform: str
    compute_capability: str
    flags: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The name of the engine's folder."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]

    def differences(self, wanted: EngineKey) -> list[str]:
        """Say for each field that differs what this engine has and what is wanted."""
        return [_say(self, wanted, name) for name in TITLES if not _same(self, wanted, name)]

    def misfits(self, here: EngineKey) -> list[str]:
        """As `differences`, but for what keeps the engine from running.

        A compute capability that is one of several fits, and so does what the flags for
        compatibility allow. Flags change how an engine was built, not what it computes: they matter
        where some are asked for.
        """
        return [_say(self, here, name) for name in TITLES if not _fits(self, here, name)]

    @classmethod
    def from_json(cls, content: Any) -> EngineKey:
        """Read what `dataclasses.asdict` wrote.

        Raises:
            EngineError: It is no key.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(content, dict) or set(content) != names:
            raise EngineError("The engine's key is not whole", "Build the engine again")
        flags = content["flags"]
        texts = [value for name, value in content.items() if name != "flags"]
        if not isinstance(flags, list) or not all(isinstance(text, str) for text in texts + flags):
            raise EngineError("The engine's key is not of texts", "Build the engine again")
        if content["builder"] not in BUILDERS:
            raise EngineError(
                f"There is no builder of engines called {content['builder']!r}",
                "Build the engine again",
            )
        return cls(**{**content, "flags": tuple(flags)})


def _same(engine: EngineKey, wanted: EngineKey, name: str) -> bool:
    return bool(getattr(engine, name) == getattr(wanted, name))


def _fits(engine: EngineKey, here: EngineKey, name: str) -> bool:
    if name == "compute_capability":
        return _fits_gpu(engine, here)
    if name == "builder_version":
        return _fits_version(engine, here)
    return _same(engine, here, name) or (name == "flags" and not here.flags)


def _fits_gpu(engine: EngineKey, here: EngineKey) -> bool:
    wanted = set(here.compute_capability.split(","))
    if wanted <= set(engine.compute_capability.split(",")):
        return True
    return HARDWARE_COMPATIBLE in engine.flags and all(
        as_numbers(capability) >= AMPERE for capability in wanted
    )


def _fits_version(engine: EngineKey, here: EngineKey) -> bool:
    """Whether the same, or with the flag for it a later one of the same major version."""
    if engine.builder_version == here.builder_version:
        return True
    built, running = as_numbers(engine.builder_version), as_numbers(here.builder_version)
    return VERSION_COMPATIBLE in engine.flags and built[:1] == running[:1] and built <= running


def as_numbers(version: str) -> tuple[int, ...]:
    """``10.3.0`` as numbers; what is none of them ends it."""
    numbers = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)


def _say(engine: EngineKey, wanted: EngineKey, name: str) -> str:
    found, here = (_show(getattr(key, name), name) for key in (engine, wanted))
    return f"its {TITLES[name]} is {found}, here it is {here}"


def _show(value: str | tuple[str, ...], name: str) -> str:
    if isinstance(value, tuple):
        return " ".join(value) or "none"
    if name.endswith("sha256") and value:
        return f"{value[:SHOWN]}…"
    return value or "none"
