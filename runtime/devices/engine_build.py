"""A graph to a plan, in a process of its own: what TensorRT and TensorRT-RTX have alike.

Both share one API. The network is strongly typed: precision is in the graph, and there is no flag
for it. `engine_process` runs this file, because a builder that runs out of memory takes its process
with it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import EngineError
from ...runtime.backends import import_backend
from ...runtime.devices.engine_session import complaints_of

if TYPE_CHECKING:
    import tensorrt as trt

OnPhase = Callable[[str, int, int], bool]
"""Told of the builder's outermost phase, the steps done and all of them; False stops the build."""


@dataclass(frozen=True)
class Request:
    """One engine to build; it crosses to another process as JSON.

    Attributes:
        builder: ``tensorrt`` or ``tensorrt-rtx``.
        graph: The ONNX file.
        plan: Where the engine goes.
        timing_cache: Where the timings of kernels go.
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
    known_timings: tuple[str, ...] = ()
    compute_capabilities: tuple[str, ...] = ()
    optimization_level: int | None = None
    workspace_bytes: int | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Request:
        content: dict[str, Any] = json.loads(text)
        return cls(**{name: as_field(value) for name, value in content.items()})


def as_field(value: Any) -> Any:
    """A value as JSON gives it back, with tuples for lists."""
    return tuple(value) if isinstance(value, list) else value


def build_plan(request: Request, on_phase: OnPhase) -> None:
    """Parse a graph and build its engine.

    Raises:
        EngineError: The parser or the builder refuses the graph.
    """
    module: Any = import_backend(request.builder).import_library()  # type: ignore[attr-defined]
    logger = complaints_of(module)
    builder: trt.Builder = module.Builder(logger)
    strongly_typed = 1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network: trt.INetworkDefinition = builder.create_network(strongly_typed)
    parser: trt.OnnxParser = module.OnnxParser(network, logger)
    if not parser.parse_from_file(request.graph):
        raise refused_by_parser(parser, Path(request.graph))
    config = builder.create_builder_config()
    configure(module, config, request)
    config.progress_monitor = monitor_of(module, on_phase)
    read_timings(module, config, request)
    plan: trt.IHostMemory | None = builder.build_serialized_network(network, config)
    if plan is None:
        raise refused_by_builder(logger.messages, Path(request.graph))  # type: ignore[attr-defined]
    Path(request.plan).write_bytes(memoryview(plan))
    keep_timings(module, config, request)


def configure(module: Any, config: trt.IBuilderConfig, request: Request) -> None:
    """Set what was asked for; and no TF32, for fp32 in the graph is to be fp32."""
    config.clear_flag(module.BuilderFlag.TF32)
    if request.compute_capabilities:
        set_capabilities(module, config, request.compute_capabilities)
    if request.optimization_level is not None:
        config.builder_optimization_level = request.optimization_level
    if request.workspace_bytes is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, request.workspace_bytes)
    if request.hardware_compatible:
        config.hardware_compatibility_level = module.HardwareCompatibilityLevel.AMPERE_PLUS
    if request.version_compatible:
        config.set_flag(module.BuilderFlag.VERSION_COMPATIBLE)


def set_capabilities(module: Any, config: Any, capabilities: tuple[str, ...]) -> None:
    """Name the GPUs that TensorRT-RTX builds for; TensorRT has none of this."""
    names = [f"SM{capability.replace('.', '')}" for capability in capabilities]
    offered = [name for name in dir(module.ComputeCapability) if name.startswith("SM")]
    for capability, name in zip(capabilities, names, strict=True):
        if name not in offered:
            raise EngineError(
                f"TensorRT-RTX {module.__version__} builds nothing for compute capability "
                f"{capability}",
                f"Choose from {', '.join(sorted(map(as_capability, offered), key=float))}",
            )
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(getattr(module.ComputeCapability, name), index)


def as_capability(name: str) -> str:
    """``SM120`` as 12.0."""
    return f"{name[2:-1]}.{name[-1]}"


def monitor_of(module: Any, on_phase: OnPhase) -> Any:
    """A progress monitor that tells of the outermost phase."""

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]  # a class of the given module
        def __init__(self) -> None:
            super().__init__()
            self.name, self.steps, self.going = "", 0, True

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self.name, self.steps = name, steps
                self.going = on_phase(name, 0, steps) and self.going

        def step_complete(self, name: str, step: int) -> bool:
            if name == self.name:
                self.going = on_phase(name, step + 1, self.steps) and self.going
            return self.going

        def phase_finish(self, name: str) -> None:
            if name == self.name:
                self.going = on_phase(name, self.steps, self.steps) and self.going

    return Monitor()


def read_timings(module: Any, config: trt.IBuilderConfig, request: Request) -> None:
    """Give TensorRT what earlier builds measured; TensorRT-RTX measures nothing."""
    if request.builder != "tensorrt":
        return
    cache: trt.ITimingCache = config.create_timing_cache(b"")
    for known in request.known_timings:
        other: trt.ITimingCache | None = config.create_timing_cache(Path(known).read_bytes())
        if other is not None:  # it is for speed alone: a damaged one is measured again
            cache.combine(other, ignore_mismatch=False)
    config.set_timing_cache(cache, ignore_mismatch=False)


def keep_timings(module: Any, config: trt.IBuilderConfig, request: Request) -> None:
    """Write down what this build measured."""
    if request.builder == "tensorrt":
        timings: Any = config.get_timing_cache().serialize()
        Path(request.timing_cache).write_bytes(memoryview(timings))


def refused_by_parser(parser: trt.OnnxParser, graph: Path) -> EngineError:
    """What the parser says, in one line."""
    if not parser.num_errors:
        return EngineError(f"The parser cannot read {graph}", "Export the bundle again")
    error: Any = parser.get_error(0)
    # Without a GPU the library complains of that too, at any error.
    said = "; ".join(line for line in error.desc().splitlines() if "cudaError" not in line)
    if not error.node_operator():
        return EngineError(f"The parser cannot read {graph}: {said}", "Export the bundle again")
    name = error.node_name() or f"number {error.node()}"
    return EngineError(
        f"The parser refuses the node {name} ({error.node_operator()}) of {graph}: {said}",
        "Export again with `--target portable`, whose graphs this builder reads, or choose another "
        "`--precision`",
    )


def refused_by_builder(messages: list[str], graph: Path) -> EngineError:
    said = messages[-1] if messages else "it does not say why"
    remedy = "Choose another `--precision`, or report the graph"
    if "workspace" in said.lower() or "memory" in said.lower():
        remedy = "Give it more with `--workspace`, or ask for less with `--optimization-level 1`"
    return EngineError(f"The builder made no engine of {graph}: {said}", remedy)
