"""A graph to a plan, as TensorRT and TensorRT-RTX have it alike.

Both share one API. The network is strongly typed: precision is in the graph, and there is no flag
for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import EngineError
from ..builder import BuildRequest, OnPhase

if TYPE_CHECKING:
    import tensorrt as trt

# Of `configure`, and of the flags and timings of the two backends: raise it when they change.
RECIPE = 2
LAYERS = "Layers:"  # how the builder's list of kernels begins, in its log


def build_plan(
    module: Any,
    request: BuildRequest,
    on_phase: OnPhase,
    *,
    flags: Sequence[str] = (),
    keeps_timings: bool = False,
) -> None:
    """Parse a graph and build its engine.

    Args:
        module: TensorRT's Python.
        request: What to build.
        on_phase: Told of the progress.
        flags: Of the builder, by their names in ``BuilderFlag``.
        keeps_timings: Whether the builder has timings of kernels to read and to keep.

    Raises:
        EngineError: The parser or the builder refuses the graph.
    """
    logger = listener_of(module)
    builder: trt.Builder = module.Builder(logger)
    strongly_typed = 1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network: trt.INetworkDefinition = builder.create_network(strongly_typed)
    parser: trt.OnnxParser = module.OnnxParser(network, logger)
    if not parser.parse_from_file(request.graph):
        raise refused_by_parser(parser, Path(request.graph))
    config = builder.create_builder_config()
    configure(module, config, request)
    for flag in flags:
        config.set_flag(getattr(module.BuilderFlag, flag))
    config.progress_monitor = monitor_of(module, on_phase)
    if keeps_timings:
        read_timings(config, request)
    plan: trt.IHostMemory | None = builder.build_serialized_network(network, config)
    if plan is None:
        raise refused_by_builder(logger.messages, Path(request.graph))
    Path(request.plan).write_bytes(memoryview(plan))
    if request.layers and logger.layers:
        Path(request.layers).write_text(logger.layers, encoding="utf-8")
    if keeps_timings:
        keep_timings(config, request)


def listener_of(module: Any) -> Any:
    """A logger that keeps the errors, in ``messages``, and the list of kernels, in ``layers``."""

    class Listener(module.ILogger):  # type: ignore[misc]  # a class of the module that is given
        def __init__(self) -> None:
            super().__init__()
            self.messages: list[str] = []
            self.layers = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in {module.ILogger.Severity.ERROR, module.ILogger.Severity.INTERNAL_ERROR}:
                self.messages.append(" ".join(message.split()))
            elif message.startswith(LAYERS):
                self.layers = message

    return Listener()


def configure(module: Any, config: trt.IBuilderConfig, request: BuildRequest) -> None:
    """Set what was asked for; and no TF32, for fp32 in the graph is to be fp32.

    The kernels are described in all detail: the list of them says which nodes each is made of.
    """
    config.clear_flag(module.BuilderFlag.TF32)
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
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


def read_timings(config: trt.IBuilderConfig, request: BuildRequest) -> None:
    """Give the builder what earlier builds measured."""
    cache: trt.ITimingCache = config.create_timing_cache(b"")
    for known in request.known_timings:
        other: trt.ITimingCache | None = config.create_timing_cache(Path(known).read_bytes())
        if other is not None:  # it is for speed alone: a damaged one is measured again
            cache.combine(other, ignore_mismatch=False)
    config.set_timing_cache(cache, ignore_mismatch=False)


def keep_timings(config: trt.IBuilderConfig, request: BuildRequest) -> None:
    """Write down what this build measured."""
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
