"""What a builder of engines is: a backend whose graphs are built first, by `pitstop build`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from .backend import Backend

OnPhase = Callable[[str, int, int], bool]
"""Told of the builder's outermost phase, the steps done and all of them; False stops the build."""


@dataclass(frozen=True)
class BuildRequest:
    """One engine to build; it crosses to another process as JSON.

    Attributes:
        builder: The backend that the engine is for.
        graph: The ONNX file.
        plan: Where the engine goes.
        timing_cache: Where the timings of kernels go.
        layers: Where the builder's list of the engine's kernels goes, if it writes one; or empty.
        known_timings: Timing caches of earlier builds for the same GPU and version.
        compute_capabilities: Of the GPUs that it is for, such as ``8.9``; empty for the one here.
        optimization_level: 0 to 5, or None for the builder's own.
        workspace_bytes: Device memory that a kernel may use beside its inputs, or None.
        hardware_compatible: Whether it is to run on every GPU from Ampere on.
        version_compatible: Whether later versions of the same major one are to run it.
    """

    builder: str
    graph: str
    plan: str
    timing_cache: str
    layers: str = ""
    known_timings: tuple[str, ...] = ()
    compute_capabilities: tuple[str, ...] = ()
    optimization_level: int | None = None
    workspace_bytes: int | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> BuildRequest:
        content: dict[str, Any] = json.loads(text)
        return cls(**{name: as_field(value) for name, value in content.items()})


def as_field(value: Any) -> Any:
    """A value as JSON gives it back, with tuples for lists."""
    return tuple(value) if isinstance(value, list) else value


class Builder(Backend, Protocol):
    """What a file of ``runtime/backends/`` with ``NEEDS_ENGINE`` defines beside a backend.

    Attributes:
        RECIPE: The version of how `build` sets its library up, raised when that changes: an
            engine of another recipe is built again.
        MEASURES: Whether it times kernels. Then it builds on the GPU that is to run the engine,
            for that model, and keeps the timings; else anywhere, for compute capabilities.
    """

    @property
    def RECIPE(self) -> int: ...

    @property
    def MEASURES(self) -> bool: ...

    def why_no_library(self) -> str | None:
        """Say why engines cannot be built, with a GPU or without, or None where they can."""

    def import_library(self) -> Any:
        """The library's module, with its ``__version__``."""

    def cuda_major(self) -> str:
        """The major version of the CUDA that the library is of, such as ``13``, or empty."""

    def compatibility(self) -> tuple[str, ...]:
        """Which of the flags of `bundle.engine_key` for compatibility it has on this machine."""

    def build(self, request: BuildRequest, on_phase: OnPhase) -> None:
        """Build an engine, in a process of its own.

        Raises:
            EngineError: The graph is refused.
        """
