"""Which engines of a bundle would load on this machine."""

from __future__ import annotations

import contextlib

from ... import EngineError
from ..backends import builder_names, import_builder
from ..bundle.engine_key import EngineKey
from ..bundle.engines import Engine, check_plan, key_for, list_engines, read_engine
from ..bundle.folder import Bundle
from ..machine.driver import read_driver
from .engine_backend import all_that_is_missing, key_here


def why_not_here(bundle: Bundle, engine: Engine) -> str | None:
    """Say why an engine would not load on this machine, or None where it would.

    What cannot be asked here, such as the compute capability of a GPU that is not there, is told
    once, as missing.
    """
    if why := _why_unknown(bundle, engine.key):
        return why
    try:
        check_plan(engine)
    except EngineError as error:
        return error.problem
    return _why_misfit(bundle, engine.key)


def _why_unknown(bundle: Bundle, key: EngineKey) -> str | None:
    if key.graph not in bundle.manifest.graphs:
        return f"the bundle has no graph {key.graph}"
    if key.builder not in builder_names():
        return f"this pitstop has no backend {key.builder}"
    return None


def _why_misfit(bundle: Bundle, key: EngineKey) -> str | None:
    missing = import_builder(key.builder).why_not()
    here = _key_without_library(bundle, key) if missing else _key_with_gpu(bundle, key)
    return all_that_is_missing([*key.misfits(here), missing])


def _key_with_gpu(bundle: Bundle, key: EngineKey) -> EngineKey:
    gpu = read_driver().gpus[0]
    return key_here(
        bundle,
        key.graph,
        key.builder,
        compute_capability=gpu.compute_capability,
        gpu=gpu.name,
    )


def _key_without_library(bundle: Bundle, key: EngineKey) -> EngineKey:
    """What is known of this machine, and what is not as the engine has it."""
    return key_for(
        bundle,
        key.graph,
        builder=key.builder,
        builder_version=key.builder_version,
        cuda_major=key.cuda_major,
        recipe=import_builder(key.builder).RECIPE,
        compute_capability=key.compute_capability,
        gpu=key.gpu,
    )


def engines_here(bundle: Bundle, precision: str) -> set[str]:
    """The builders of a denoiser's engines that fit; a plan's hash is left to who opens it."""
    builders = set()
    for folder in list_engines(bundle.folder):
        with contextlib.suppress(EngineError):  # `pitstop inspect` tells of it
            key = read_engine(folder).key
            if key.graph != f"denoiser.{precision}" or _why_unknown(bundle, key):
                continue
            if not _why_misfit(bundle, key):
                builders.add(key.builder)
    return builders
