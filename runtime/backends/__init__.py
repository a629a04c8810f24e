"""The backends, one a file, each called as its file is.

Nothing of a backend is imported until its name is asked for, so a library that is not installed
costs nothing.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import cast

from ..backend import Backend
from ..errors import BackendUnavailable, one_of


def backend_names() -> list[str]:
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def import_backend(name: str) -> Backend:
    """Import the backend called ``name``, whether it can run here or not."""
    if name not in backend_names():
        raise one_of("backend", name, ["auto", *backend_names()])
    return cast(Backend, importlib.import_module(f"{__name__}.{name.replace('-', '_')}"))


def load_backend(name: str) -> Backend:
    """Import the backend called ``name`` and check that it can run on this machine.

    ``auto`` takes the first that can.

    Raises:
        OptionError: There is no backend of that name.
        BackendUnavailable: It cannot run here, or none can; the message says why.
    """
    names = backend_names() if name == "auto" else [name]
    reasons = {}
    for candidate in names:
        backend = import_backend(candidate)
        reason = backend.why_not()
        if reason is None:
            return backend
        reasons[candidate] = reason
    raise BackendUnavailable(
        "; ".join(f"The {name} backend cannot run here: {why}" for name, why in reasons.items()),
        "Run `pitstop doctor` to see which can, and what to install",
    )
