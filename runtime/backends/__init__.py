"""The backends, one a file, each called as its file is.

Nothing of a backend is imported until its name is asked for, so a library that is not installed
costs nothing.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import cast

from ... import BackendUnavailable, one_of
from ..backend import Backend, SessionOptions
from ..builder import Builder

AUTO = "auto"


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


def builder_names() -> list[str]:
    """The backends that run engines of their own."""
    return [name for name in backend_names() if import_backend(name).NEEDS_ENGINE]


def import_builder(name: str) -> Builder:
    """Import the builder of engines called ``name``, whether it can build here or not."""
    if name not in builder_names():
        raise one_of("builder of engines", name, builder_names())
    return cast(Builder, import_backend(name))


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
    if name == AUTO:
        return candidates(options or SessionOptions(), engines)[0]
    backend = import_backend(name)
    reason = backend.why_not()
    if reason is not None:
        raise _unavailable({name: reason})
    return Choice(name, backend)


def candidates(options: SessionOptions, engines: Collection[str] = ()) -> list[Choice]:
    """The backends that can run here, in the order in which ``auto`` takes them.

    Args:
        options: Of the sessions to come; an execution provider settles it.
        engines: The backends that an engine for this GPU is at hand for.

    Raises:
        BackendUnavailable: There is none; the message says why of each.
    """
    ranked = []
    for name in backend_names():
        backend = import_backend(name)
        if rank := backend.rank(options, engines):
            place, why = rank
            ranked.append((place, Choice(name, backend, why)))
    ranked.sort(key=lambda found: (found[0], found[1].name))
    reasons = {choice.name: choice.backend.why_not() for _, choice in ranked}
    able = [choice for _, choice in ranked if reasons[choice.name] is None]
    if not able:
        raise _unavailable(reasons)
    return able


def _unavailable(reasons: Mapping[str, str | None]) -> BackendUnavailable:
    return BackendUnavailable(
        "; ".join(f"The {name} backend cannot run here: {why}" for name, why in reasons.items()),
        "Run `pitstop doctor` to see which can, and what to install",
    )
