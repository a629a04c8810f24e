"""What an engine depends on: its content address, and how two of them differ.

An engine is right for one graph with its weights, one builder of one version that was set up in one
way, and the GPUs that it was built for. All of it is in the key, in clear text, so that an engine
which does not fit is told from one that does, and why.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from ... import EngineError
from ..machine.system import JETSON

HARDWARE_COMPATIBLE = "hardware-compatible"
VERSION_COMPATIBLE = "version-compatible"
AMPERE = (8, 0)  # the first that hardware-compatible engines run on
DIGITS = 16  # of the sha256 that names an engine's folder
SHOWN = 12  # of the sha256s in messages
TITLES = {
    "graph_sha256": "graph",
    "weights_sha256": "weights",
    "precision": "precision",
    "calibration_sha256": "calibration",
    "builder": "builder",
    "builder_version": "builder's version",
    "cuda_major": "CUDA",
    "recipe": "build recipe",
    "platform": "platform",
    "compute_capability": "compute capability",
    "gpu": "GPU",
    "flags": "flags",
}
# What keys had not from the beginning, as it is of those that do not say it. No recipe is 0.
UNSAID = {"cuda_major": "", "recipe": 0, "gpu": ""}


@dataclass(frozen=True)
class EngineKey:
    """The content address of an engine.

    Attributes:
        graph: Its name in the manifest, such as ``denoiser.fp16``.
        graph_sha256: Of the ONNX file.
        weights_sha256: Of the weights beside it, or empty where they are in the file.
        precision: Of the graph.
        calibration_sha256: Of the ranges that an int8 graph was made with, or empty.
        builder: The backend that runs it, such as ``tensorrt``.
        builder_version: All of it, such as ``10.3.0``.
        cuda_major: Of the CUDA that the builder is of, such as ``13``, or empty.
        recipe: Version of how pitstop sets the builder up.
        platform: Operating system and processor, such as ``Linux aarch64 Jetson``: a plan holds
            code of both.
        compute_capability: Of the GPUs that it is for, such as ``8.7`` or ``8.6,8.9,12.0``.
        gpu: The model that its kernels were timed on; empty where none were, and it is for every
            model of its compute capabilities.
        flags: What was asked of the builder, sorted.
    """

    graph: str
    graph_sha256: str
    weights_sha256: str
    precision: str
    calibration_sha256: str
    builder: str
    builder_version: str
    cuda_major: str
    recipe: int
    platform: str
    compute_capability: str
    gpu: str
    flags: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The name of the engine's folder."""
        facts = dataclasses.asdict(self)
        if not self.recipe:  # as an older pitstop named it
            facts = {name: fact for name, fact in facts.items() if name not in UNSAID}
        text = json.dumps(facts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]

    def differences(self, wanted: EngineKey) -> list[str]:
        """Say for each field that differs what this engine has and what is wanted."""
        return [_say(self, wanted, name) for name in TITLES if not _same(self, wanted, name)]

    def misfits(self, here: EngineKey) -> list[str]:
        """As `differences`, but for what keeps the engine from running.

        A compute capability that is one of several fits, and so do all models of a GPU where none
        was timed, and what the flags for compatibility allow. Flags change how an engine was built,
        not what it computes: they matter where some are asked for.
        """
        return [_say(self, here, name) for name in TITLES if not _fits(self, here, name)]

    @classmethod
    def from_json(cls, content: Any) -> EngineKey:
        """Read what `dataclasses.asdict` wrote, an older pitstop's too.

        Raises:
            EngineError: It is no key.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if isinstance(content, dict) and set(content) == names - UNSAID.keys():
            content = {**content, **UNSAID}
        if not isinstance(content, dict) or set(content) != names:
            raise EngineError("The engine's key is not whole", "Build the engine again")
        types = {"recipe": int, "flags": list}
        flags = content["flags"]
        if any(type(content[name]) is not types.get(name, str) for name in names) or not all(
            isinstance(flag, str) for flag in flags
        ):
            raise EngineError("The engine's key is of other types", "Build the engine again")
        return cls(**{**content, "flags": tuple(flags)})


def _same(engine: EngineKey, wanted: EngineKey, name: str) -> bool:
    return bool(getattr(engine, name) == getattr(wanted, name))


def _fits(engine: EngineKey, here: EngineKey, name: str) -> bool:
    if name == "compute_capability":
        return _fits_capability(engine, here)
    if name == "gpu":
        return not engine.gpu or _same(engine, here, name) or _is_for_all_gpus(engine, here)
    if name == "builder_version":
        return _fits_version(engine, here)
    return _same(engine, here, name) or (name == "flags" and not here.flags)


def _fits_capability(engine: EngineKey, here: EngineKey) -> bool:
    wanted = set(here.compute_capability.split(","))
    return wanted <= set(engine.compute_capability.split(",")) or _is_for_all_gpus(engine, here)


def _is_for_all_gpus(engine: EngineKey, here: EngineKey) -> bool:
    """Whether the flag for it is of use here: NVIDIA's guide leaves JetPack out."""
    return (
        HARDWARE_COMPATIBLE in engine.flags
        and JETSON not in here.platform
        and all(as_numbers(wanted) >= AMPERE for wanted in here.compute_capability.split(","))
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


def _show(value: str | int | tuple[str, ...], name: str) -> str:
    if isinstance(value, tuple):
        return " ".join(value) or "none"
    if name.endswith("sha256") and value:
        return f"{str(value)[:SHOWN]}…"
    return str(value or ("an older pitstop's" if name == "recipe" else "none"))
