"""Which engines of a bundle would load on this machine."""

from __future__ import annotations

import contextlib

from ... import EngineError
from ..backends import import_backend
from ..bundle.engines import Engine, check_plan, key_for, list_engines, read_engine
from ..bundle.folder import Bundle
from ..machine.driver import read_driver
from .engine_backend import all_that_is_missing


def why_not_here(bundle: Bundle, engine: Engine) -> str | None:
    """Say why an engine would not load on this machine, or None where it would.

    What cannot be asked here, such as the compute capability of a GPU that is not there, is told
    once, as missing.
    """
    key = engine.key
    if key.graph not in bundle.manifest.graphs:
        return f"the bundle has no graph {key.graph}"
    backend = import_backend(key.builder)
    missing = backend.why_not()
    library = None if missing else backend.import_library()  # type: ignore[attr-defined]
    here = key_for(
        bundle,
        key.graph,
        builder=key.builder,
        builder_version=str(library.__version__) if library else key.builder_version,
        compute_capability=read_driver().gpus[0].compute_capability
        if library
        else key.compute_capability,
    )
    try:
        check_plan(engine)
    except EngineError as error:
        return error.problem
    return all_that_is_missing([*key.misfits(here), missing])


def engines_here(bundle: Bundle, precision: str) -> set[str]:
    """The builders of a denoiser's engines that would load here."""
    builders = set()
    for folder in list_engines(bundle.folder):
        with contextlib.suppress(EngineError):  # `pitstop inspect` tells of it
            engine = read_engine(folder)
            if engine.key.graph == f"denoiser.{precision}" and not why_not_here(bundle, engine):
                builders.add(engine.key.builder)
    return builders
