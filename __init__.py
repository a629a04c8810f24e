"""Take a PiT diffusion transformer from a PyTorch checkpoint to an edge device.

``from pitstop import Pipeline, Settings`` imports neither PyTorch nor, before they are asked for,
anything else.

What a user can mend is told by one kind of error, in one tree:

PitstopError
├── BundleError         a bundle is missing, broken, or made by another version
├── CheckpointError     a checkpoint or preset cannot be read
│   └── ConfigError     a field of a config, or several together, that no model can have
├── CalibrationError    a calibration set or ranges do not fit, or hold what they must not
├── ShapeError          an array does not have the shape that a graph was traced with
├── BackendUnavailable  a backend cannot run on this machine
├── EngineError         an engine is missing, does not fit, or cannot be built
├── OptionError         an option has a value that does not exist or does not fit
│   └── FolderError     a folder cannot take the images of a run
└── NonFiniteError      a latent left the finite numbers
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .runtime.pipeline import Pipeline
    from .runtime.samples import Samples
    from .runtime.sampling.callback import Step
    from .runtime.sampling.settings import Settings

__version__ = "0.1.0"

__all__ = [
    "BackendUnavailable",
    "BundleError",
    "CalibrationError",
    "CheckpointError",
    "ConfigError",
    "EngineError",
    "NonFiniteError",
    "OptionError",
    "Pipeline",
    "PitstopError",
    "Samples",
    "Settings",
    "ShapeError",
    "Step",
    "__version__",
]

# What is imported when it is asked for: a command's start must not wait for NumPy.
LAZY = {
    "Pipeline": ".runtime.pipeline",
    "Samples": ".runtime.samples",
    "Settings": ".runtime.sampling.settings",
    "Step": ".runtime.sampling.callback",
}

if not TYPE_CHECKING:  # for mypy a name that is not above does not exist

    def __getattr__(name: str) -> object:
        if name not in LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(LAZY[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *LAZY})


class PitstopError(Exception):
    """A problem in what the user gave us, and what to do about it.

    Both sentences are asked for, so that no error can be raised without its remedy. The message
    is one line, whatever a file that somebody sent has in its names.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(" ".join(f"{problem}. {remedy}.".splitlines()))
        self.problem = problem
        self.remedy = remedy


class BundleError(PitstopError):
    """A bundle is missing, broken, or made by another version."""


class CheckpointError(PitstopError):
    """A checkpoint or preset cannot be read, or its tensors do not fit its config."""


class ConfigError(CheckpointError):
    """A field of a config, or several together, that no model can have."""


class CalibrationError(PitstopError):
    """A calibration set or a file of ranges does not fit this bundle, or cannot be read."""


class ShapeError(PitstopError):
    """An array does not have the shape that a graph was traced with."""


class BackendUnavailable(PitstopError):
    """A backend cannot run on this machine."""


class EngineError(PitstopError):
    """An engine is missing or broken, does not fit this machine or graph, or cannot be built."""


class OptionError(PitstopError):
    """An option has a value that does not exist, or that does not fit this bundle."""


class FolderError(OptionError):
    """A folder cannot take the images of a run: it holds others, or cannot be written."""


class NonFiniteError(PitstopError):
    """A latent left the finite numbers."""


def one_of(kind: str, found: object, names: Iterable[object]) -> OptionError:
    """The error for an unknown name: ``There is no sampler called 'ddmi'``."""
    return OptionError(
        f"There is no {kind} called {found!r}", f"Choose one of: {', '.join(map(str, names))}"
    )
