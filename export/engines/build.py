"""Build the engines of a bundle: on the device, or for TensorRT-RTX ahead of time without a GPU.

It needs neither PyTorch nor ONNX: the precision is in the graphs.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

from ... import BackendUnavailable, EngineError, OptionError
from ...runtime.backends import builder_names, import_builder
from ...runtime.builder import BuildRequest, OnPhase
from ...runtime.bundle.engine_key import HARDWARE_COMPATIBLE, VERSION_COMPATIBLE, EngineKey
from ...runtime.bundle.engines import (
    LAYERS,
    PLAN,
    TIMING_CACHE,
    Engine,
    check_plan,
    list_engines,
    new_engine,
    read_engine,
    write_metadata,
)
from ...runtime.bundle.folder import Bundle, open_bundle
from ...runtime.bundle.manifest import STEP
from ...runtime.devices.engine_backend import key_here
from ...runtime.machine.driver import read_driver
from ...runtime.machine.system import this_machine
from ...runtime.stage import OnStage, unheard
from .process import build_apart

MOST_WORKSPACE = 1 << 20  # MiB, far beyond any GPU's memory
LEVELS = range(6)
MEBIBYTE = 1 << 20
CAPABILITY = re.compile(r"\d{1,2}\.\d")
# What the timings of kernels depend on.
TIMED = ("builder", "builder_version", "cuda_major", "platform", "compute_capability", "gpu")


@dataclass(frozen=True)
class BuildOptions:
    """How engines are built.

    Attributes:
        builder: A backend that runs engines, such as ``tensorrt``.
        precision: Of the denoiser; None is the most exact in the bundle.
        compute_capabilities: Of the GPUs that they are for; empty for the one here.
        optimization_level: 0 (quick to build) to 5 (slow), or None for the builder's own.
        workspace_mib: Device memory for a kernel beside its inputs, in MiB; None is half of what
            the GPU has.
        hardware_compatible: Run on every GPU from Ampere on, where the builder can.
        version_compatible: Run on later versions of the same major one, where the builder can.
        force: Build even where the engine is there.
    """

    builder: str
    precision: str | None = None
    compute_capabilities: tuple[str, ...] = ()
    optimization_level: int | None = None
    workspace_mib: int | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        if self.optimization_level is not None and self.optimization_level not in LEVELS:
            raise OptionError(
                f"The optimization level is {self.optimization_level}", "Choose 0 to 5"
            )
        if self.workspace_mib is not None and not 1 <= self.workspace_mib <= MOST_WORKSPACE:
            raise OptionError(
                f"The workspace is {self.workspace_mib} MiB",
                f"Choose 1 to {MOST_WORKSPACE} with `--workspace`",
            )
        for capability in self.compute_capabilities:
            if not CAPABILITY.fullmatch(capability):
                raise OptionError(
                    f"There is no compute capability {capability!r}", "Write it as 8.9 or 12.0"
                )
        self._check_with_builder()

    def _check_with_builder(self) -> None:
        builder = import_builder(self.builder)
        if builder.MEASURES and self.compute_capabilities:
            others = [name for name in builder_names() if not import_builder(name).MEASURES]
            raise OptionError(
                f"The {self.builder} backend builds for the GPU of this machine only",
                "Leave out `--compute-capability`, or choose "
                + " or ".join(f"`--backend {name}`" for name in others),
            )
        missing = [flag for flag in self.compatibility if flag not in builder.compatibility()]
        if missing:
            raise OptionError(
                f"The {self.builder} backend has no flags for compatibility of that kind here: "
                + ", ".join(f"`--{flag}`" for flag in missing),
                "Leave them out and build on each machine"
                if builder.MEASURES
                else "Name the GPUs with `--compute-capability 8.6,8.9,12.0`",
            )

    @property
    def compatibility(self) -> tuple[str, ...]:
        """The flags for it that are asked for."""
        asked = {
            HARDWARE_COMPATIBLE: self.hardware_compatible,
            VERSION_COMPATIBLE: self.version_compatible,
        }
        return tuple(flag for flag, is_asked in asked.items() if is_asked)

    @property
    def flags(self) -> tuple[str, ...]:
        """What is asked of the builder, as the engine's key has it."""
        asked = {
            f"optimization-level={self.optimization_level}": self.optimization_level is not None,
            f"workspace={self.workspace_mib}MiB": self.workspace_mib is not None,
        }
        return (*self.compatibility, *(flag for flag, is_asked in asked.items() if is_asked))


@dataclass(frozen=True)
class Built:
    """An engine, and whether it was there already."""

    engine: Engine
    is_new: bool


def build_engines(folder: Path, options: BuildOptions, on_stage: OnStage = unheard) -> list[Built]:
    """Build the engine of a denoiser, and that of the step beside it where the bundle has one.

    Raises:
        BackendUnavailable: The builder's library is not here, or a GPU that it needs.
        EngineError: The graph is refused, the build was killed, or another one is under way.
    """
    why = import_builder(options.builder).why_no_library()
    if why is not None:
        raise BackendUnavailable(
            f"The {options.builder} backend cannot build here: {why}",
            "Run `pitstop doctor` to see what this machine has",
        )
    bundle = open_bundle(folder, every_file=False)
    denoiser = f"denoiser.{options.precision or bundle.manifest.precisions[0]}"
    bundle.manifest.denoiser(denoiser.partition(".")[2])  # refuses a precision that is not there
    capability, gpu = _target(options)
    built = []
    for graph in [denoiser, *([STEP] if STEP in bundle.manifest.graphs else [])]:
        key = key_here(
            bundle,
            graph,
            options.builder,
            compute_capability=capability,
            gpu=gpu,
            flags=options.flags,
        )
        built.append(_build(bundle, key, options, on_stage))
    return built


def _target(options: BuildOptions) -> tuple[str, str]:
    """The GPUs that engines are for, as their key has them: compute capabilities, and the model."""
    if options.compute_capabilities:
        return ",".join(sorted(set(options.compute_capabilities), key=float)), ""
    driver = read_driver()
    if driver.problem is not None:
        raise BackendUnavailable(
            f"There is no GPU to build for: {driver.problem}",
            "Build on the machine that is to run it"
            if import_builder(options.builder).MEASURES
            else "Name it with `--compute-capability 8.9`",
        )
    return driver.gpus[0].compute_capability, driver.gpus[0].name


def _build(bundle: Bundle, key: EngineKey, options: BuildOptions, on_stage: OnStage) -> Built:
    there = None if options.force else _there(bundle, key)
    if there is not None:
        return Built(there, is_new=False)
    with new_engine(bundle.folder, key) as partial:
        started = time.perf_counter()
        request = BuildRequest(
            builder=key.builder,
            graph=str(bundle.path(bundle.manifest.graphs[key.graph].path)),
            plan=str(partial / PLAN),
            timing_cache=str(partial / TIMING_CACHE),
            layers=str(partial / LAYERS),
            known_timings=_known_timings(bundle.folder, key),
            compute_capabilities=tuple(key.compute_capability.split(","))
            if options.compute_capabilities
            else (),
            optimization_level=options.optimization_level,
            workspace_bytes=_workspace(options),
            hardware_compatible=options.hardware_compatible,
            version_compatible=options.version_compatible,
        )
        build_apart(request, _phases(key.graph, on_stage))
        write_metadata(partial, key, time.perf_counter() - started)
    [done] = [path for path in list_engines(bundle.folder) if path.name == key.digest]
    return Built(read_engine(done), is_new=True)


def _there(bundle: Bundle, key: EngineKey) -> Engine | None:
    """The engine of that key, if it is there and whole."""
    for path in list_engines(bundle.folder):
        if path.name == key.digest:
            try:
                engine = read_engine(path)
                check_plan(engine)
            except EngineError:
                return None  # this build takes its place
            return engine
    return None


def _workspace(options: BuildOptions) -> int | None:
    """Half of the GPU's memory, or of what the machine has free where they share it."""
    if options.workspace_mib is not None:
        return options.workspace_mib * MEBIBYTE
    gpus = read_driver().gpus
    if not gpus:
        return None
    free = this_machine().free_bytes if gpus[0].integrated else gpus[0].memory_bytes
    return None if free is None else free // 2


def _known_timings(folder: Path, key: EngineKey) -> tuple[str, ...]:
    """The timing caches of engines of the same builder, version, CUDA, platform and GPU."""
    known = []
    for path in list_engines(folder):
        try:
            engine = read_engine(path)
        except EngineError:
            continue  # `pitstop inspect` tells of it; this build needs nothing of it
        same = all(getattr(engine.key, name) == getattr(key, name) for name in TIMED)
        if same and engine.timing_cache.is_file():
            known.append(str(engine.timing_cache))
    return tuple(known)


def _phases(graph: str, on_stage: OnStage) -> OnPhase:
    """What hears of a builder's phases, each a stage."""
    moved = on_stage(f"building the engine of {graph}")
    current, before = "", 0

    def on_phase(phase: str, done: int, steps: int) -> bool:
        nonlocal moved, current, before
        if phase != current or done < before:
            moved = on_stage(f"building the engine of {graph}: {phase}", steps)
            current, before = phase, 0
        moved(done - before)
        before = done
        return True

    return on_phase
