"""The backends, one a file, each called as its file is.

Nothing of a backend is imported until its name is asked for, so a library that is not installed
costs nothing.
"""

from __future__ import annotations

import importlib
import pkgutil
import platform
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from ... import BackendUnavailable, one_of
from ..backend import Backend, SessionOptions

AUTO = "auto"
ENGINES = ("tensorrt", "tensorrt-rtx")  # what runs nothing but an engine of its own
X86 = ("x86_64", "AMD64")  # as platform.machine has it


@dataclass(frozen=True)
class Choice:
    """A backend that runs here.

    Attributes:
        name: What it is called.
        backend: The backend.
        why: Why ``auto`` took it; empty where it was asked for by name.
    """

    name: str
    backend: Backend
    why: str = ""


def backend_names() -> list[str]:
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def import_backend(name: str) -> Backend:
    """Import the backend called ``name``, whether it can run here or not."""
    if name not in backend_names():
        raise one_of("backend", name, [AUTO, *backend_names()])
    return cast(Backend, importlib.import_module(f"{__name__}.{name.replace('-', '_')}"))


def load_backend(name: str, options: SessionOptions | None = None) -> Backend:
    """Import the backend called ``name`` and check that it can run on this machine.

    ``auto`` takes the one that `choose_backend` does.

    Raises:
        OptionError: There is no backend of that name.
        BackendUnavailable: It cannot run here, or none can; the message says why.
    """
    return choose_backend(name, options).backend


def choose_backend(
    name: str, options: SessionOptions | None = None, *, engines: Collection[str] = ()
) -> Choice:
    """Find the backend called ``name``, or for ``auto`` the fastest that can run here.

    Args:
        name: A backend's name, or ``auto``.
        options: Of the sessions to come; an execution provider settles what ``auto`` takes.
        engines: The backends that an engine for this GPU is at hand for.

    Raises:
        OptionError: There is no backend of that name.
        BackendUnavailable: It cannot run here, or none can; the message says why.
    """
    options = options or SessionOptions()
    if name == AUTO:
        for choice in candidates(options, engines):
            return choice
        raise nothing_runs(options, engines)
    backend = import_backend(name)
    if (why := backend.why_not()) is not None:
        raise _cannot_run({name: why})
    return Choice(name, backend)


def candidates(options: SessionOptions, engines: Collection[str] = ()) -> Iterator[Choice]:
    """The backends that ``auto`` may take here, the fastest first; `choose_backend` explains."""
    for name, why in _fastest_first(options, engines):
        backend = import_backend(name)
        if backend.why_not() is None:
            yield Choice(name, backend, why)


def nothing_runs(options: SessionOptions, engines: Collection[str] = ()) -> BackendUnavailable:
    """The error where ``auto`` has nothing to take, with what each backend lacks."""
    names = dict(_fastest_first(options, engines))
    return _cannot_run({name: str(import_backend(name).why_not()) for name in names})


def _cannot_run(reasons: Mapping[str, str]) -> BackendUnavailable:
    return BackendUnavailable(
        "; ".join(f"The {name} backend cannot run here: {why}" for name, why in reasons.items()),
        "Run `pitstop doctor` to see which can, and what to install",
    )


def _fastest_first(options: SessionOptions, engines: Collection[str]) -> Iterator[tuple[str, str]]:
    """Names of backends, each with why it stands where it does."""
    from .onnxruntime import runs_on_gpu

    names = backend_names()
    if options.provider is not None:
        yield "onnxruntime", f"{options.provider} is one of its execution providers"
        return
    for name in ENGINES:
        if name in names and name in engines:
            yield name, "the bundle has its engine for this GPU"
    if "onnxruntime" in names and runs_on_gpu():
        yield "onnxruntime", "it has CUDA here, and a GPU goes before a CPU"
    if "openvino" in names and platform.machine() in X86:
        yield "openvino", "it goes before onnxruntime on x86 CPUs"
    if "onnxruntime" in names:
        yield "onnxruntime", "nothing that goes before it runs here"
    for name in names:
        if name not in {*ENGINES, "onnxruntime"}:
            yield name, "nothing else runs here"
