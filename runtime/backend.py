"""What a backend is: something that opens a graph and runs it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from .bundle.folder import GraphFile
from .session import Session


@dataclass(frozen=True)
class SessionOptions:
    """How a graph is opened; None leaves the choice to the backend.

    Attributes:
        provider: An ONNX Runtime execution provider, e.g. ``CUDAExecutionProvider``.
        threads: CPU threads inside an operator.
        exact_int8: Whether ONNX Runtime sums int8 products exactly on a CPU whose fastest way cuts
            the sums off; slower there.
    """

    provider: str | None = None
    threads: int | None = None
    exact_int8: bool = False


Rank = tuple[int, str]
"""A place among what ``auto`` takes, and why it stands there; the smallest goes first."""


class Place(IntEnum):
    """The places there are."""

    ASKED, ENGINE, GPU, FASTER_CPU, CPU, LAST = range(6)


class Backend(Protocol):
    """What a file of ``runtime/backends/`` defines.

    Attributes:
        NEEDS_ENGINE: Whether it runs engines that ``pitstop build`` made, not ONNX files. Then it
            runs the loop, and what stands beside it, conditioner and decoder, runs on ONNX
            Runtime.
    """

    @property
    def NEEDS_ENGINE(self) -> bool: ...  # a module's constant

    def why_not(self) -> str | None:
        """Say why this backend cannot run on this machine, or None where it can."""

    def rank(self, options: SessionOptions, engines: Collection[str]) -> Rank | None:
        """Its place here, or None where ``auto`` is not to take it.

        Args:
            options: Of the sessions to come.
            engines: The backends that an engine for this GPU is at hand for.
        """

    def open_graph(self, graph: GraphFile, options: SessionOptions) -> Session:
        """Load a bundle's ONNX file, or the engine that was built from it."""
