"""ONNX Runtime: the backend that runs everywhere, on the CPU or through a GPU's provider.

On a GPU the tensors have fixed places on the device, the calls are replayed as a CUDA graph where
the provider can, and the latents stay there through the loop.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import io
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ... import BackendUnavailable, BundleError
from ..backend import Place, Rank, SessionOptions
from ..bundle.folder import GraphFile
from ..bundle.manifest import GraphSpec
from ..devices.onnx_device import DeviceOnnxSession, OpenStep
from ..machine.cpu import cpu_features, why_int8_saturates
from ..machine.driver import why_no_gpu
from ..session import Array, Session

NEEDS_ENGINE = False

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
# A provider of a package of its own, which ONNX Runtime is told of when it is asked for.
PLUGIN = "NvTensorRTRTXExecutionProvider"
PLUGIN_MODULE = "onnxruntime_ep_nv_tensorrt_rtx"
PLUGIN_INSTALL = "pip install onnxruntime-ep-nv-tensorrt-rtx-cu13"
# Both packages hold the module onnxruntime: the one that is there must go first.
GPU_INSTALL = "pip uninstall onnxruntime && pip install 'pitstop[gpu]'"
LIBRARIES_INSTALL = (
    "pip install 'onnxruntime-gpu[cuda,cudnn]'; TensorRT's libraries come with TensorRT"
)
TELEMETRY = "ORT_DISABLE_TELEMETRY"
# The option that replays a call as a CUDA graph, by provider.
GRAPH_OPTION = {
    CUDA: "enable_cuda_graph",
    "TensorrtExecutionProvider": "trt_cuda_graph_enable",
    PLUGIN: "enable_cuda_graph",
}
# Precision is what the graph says, so fp32 must not be calculated in TF32.
OPTIONS = {CUDA: {"use_tf32": "0"}}
# What ONNX Runtime says where a part of the graph runs elsewhere, so no call can be captured.
NOT_CAPTURED = "graph capture"
# An ONNX file of one node, y = Add(x, x), on float32 [1].
PROBE = (
    b'\x08\x08:7\n\x10\n\x01x\n\x01x\x12\x01y"\x03Add:\x00\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12'
    b"\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)
FATAL, WARNING = 4, 2  # severities of what ONNX Runtime prints; the second is its default


def why_not() -> str | None:
    if importlib.util.find_spec("onnxruntime") is None:
        return (
            "the package onnxruntime is not installed (pip install 'pitstop[cpu]', or [gpu] for "
            "NVIDIA)"
        )
    return None


@functools.cache
def import_onnxruntime() -> Any:
    """ONNX Runtime without its telemetry, which reads one variable once, as it is imported.

    It would write a device's id and events into the user's cache. Who sets the variable is obeyed.
    """
    os.environ.setdefault(TELEMETRY, "1")
    import onnxruntime

    return onnxruntime


def rank(options: SessionOptions, engines: Collection[str]) -> Rank | None:
    if options.provider is not None:
        return Place.ASKED, f"{options.provider} is one of its execution providers"
    if runs_on_gpu():
        return Place.GPU, "it has CUDA here, and a GPU goes before a CPU"
    return Place.CPU, "nothing that goes before it runs here"


def runs_on_gpu() -> bool:
    """Whether a session takes CUDA by itself."""
    return why_not() is None and why_not_provider(CUDA) is None


def providers_here() -> dict[str, str | None]:
    """Each provider, and why it cannot run here, or None where it can."""
    return {CPU: None, **{name: why_not_provider(name) for name in GRAPH_OPTION}}


def why_not_provider(name: str) -> str | None:
    """Say why a provider for NVIDIA's GPUs cannot run here, or None where it can."""
    return why_not_offered(name) or why_no_gpu() or why_not_started(name)


def why_not_offered(name: str) -> str | None:
    """Say that this ONNX Runtime was built without a provider, or None where it has it."""
    onnxruntime = import_onnxruntime()
    available = name in onnxruntime.get_available_providers()
    if not available and name == PLUGIN and importlib.util.find_spec(PLUGIN_MODULE) is None:
        return f"its package is not installed ({PLUGIN_INSTALL})"
    if not available and name != PLUGIN:
        return f"this ONNX Runtime {onnxruntime.__version__} has none ({GPU_INSTALL})"
    return None


@functools.cache
def why_not_started(name: str) -> str | None:
    """Run a graph of one node on a provider, once in a process, and say why it does not run.

    A provider that was built in need not start: without CUDA's libraries ONNX Runtime takes its CPU
    and says so on stderr alone.
    """
    onnxruntime = import_onnxruntime()
    onnxruntime.set_default_logger_severity(FATAL)
    try:
        session = _open(PROBE, name, SessionOptions(), OPTIONS.get(name, {}))
        with _told("a graph of one node", name):
            session.run(None, {"x": np.ones(1, np.float32)})
    except (BackendUnavailable, BundleError) as error:
        return f"it does not start: {_missing_library(name) or error.problem}"
    finally:
        onnxruntime.set_default_logger_severity(WARNING)
    if (got := session.get_providers()[0]) == name:
        return None
    return f"it does not start: {_missing_library(name) or f'ONNX Runtime took {got} instead'}"


def _missing_library(name: str) -> str | None:
    """What the loader says of a provider's library, after ONNX Runtime could not load it.

    Not before: a library that ONNX Runtime did not load first knows nothing of it.
    """
    onnxruntime = import_onnxruntime()
    file = f"libonnxruntime_providers_{name.removesuffix('ExecutionProvider').lower()}.so"
    path = Path(onnxruntime.__file__).parent / "capi" / file
    try:
        if path.exists():
            ctypes.CDLL(str(path))
    except OSError as error:
        return f"{error} ({LIBRARIES_INSTALL})"
    return None


def open_graph(graph: GraphFile, options: SessionOptions) -> Session:
    onnxruntime = import_onnxruntime()
    available = onnxruntime.get_available_providers()
    chosen = _provider(options.provider, available)
    if chosen in GRAPH_OPTION:
        # Else this is the CPU's package with a plugin: it has no memory of its own on a GPU.
        on_device = CUDA in available
        open_there = _open_on_gpu if on_device else _open
        session = open_there(graph.path, chosen, options)
        if (got := session.get_providers()[0]) != chosen and options.provider is not None:
            raise BackendUnavailable(
                f"ONNX Runtime could not start {chosen}, and took {got}",
                "Run `pitstop doctor`; the CUDA and cuDNN of this onnxruntime may be missing",
            )
        if got == chosen and on_device:
            return DeviceOnnxSession(session, graph.spec, "cuda", _open_step(chosen, options))
        if got == chosen:
            return OnnxRuntimeSession(session, graph.spec)
        chosen = CPU  # CUDA that nobody asked for does not start
    return OnnxRuntimeSession(_open(graph.path, chosen, options), graph.spec)


def _open_step(chosen: str, options: SessionOptions) -> OpenStep:
    """How the step is opened beside a denoiser: its places change, so nothing is captured."""
    settings = OPTIONS.get(chosen, {})
    return lambda step: _open(step.path, chosen, options, settings)


def _open_on_gpu(path: Path, chosen: str, options: SessionOptions) -> Any:
    """Open a graph to be replayed as a CUDA graph, or call by call where it cannot be."""
    settings = OPTIONS.get(chosen, {})
    try:
        return _open(path, chosen, options, {**settings, GRAPH_OPTION[chosen]: "1"})
    except BundleError as error:
        if NOT_CAPTURED not in error.problem:
            raise
    return _open(path, chosen, options, settings)


def _open(
    model: Path | bytes,
    chosen: str,
    options: SessionOptions,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> Any:
    onnxruntime = import_onnxruntime()
    chosen_settings = _session_options(options)
    if chosen in GRAPH_OPTION:
        _find_cuda()
    with _told(model if isinstance(model, Path) else "a graph of one node", chosen):
        if chosen == PLUGIN and chosen not in onnxruntime.get_available_providers():
            chosen_settings.add_provider_for_devices(_plugin_devices(), dict(settings))
            return onnxruntime.InferenceSession(model, chosen_settings)
        providers = [(chosen, dict(settings)), (CPU, {})] if chosen != CPU else [CPU]
        return onnxruntime.InferenceSession(
            model, chosen_settings, providers=providers, enable_fallback=0
        )


@functools.cache
def _find_cuda() -> None:
    """Load CUDA's libraries from their wheels, where the loader does not look."""
    onnxruntime = import_onnxruntime()
    if hasattr(onnxruntime, "preload_dlls"):  # from 1.21 on; it prints what it does not find
        with redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()


def _session_options(options: SessionOptions) -> Any:
    onnxruntime = import_onnxruntime()
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3  # errors
    # The order of the file. By default, what only a graph's outputs ask for runs last: with each
    # value's size as an output, the demo at batch 20 holds 1,280 MB instead of 230.
    settings.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    if options.exact_int8 and why_int8_saturates(cpu_features()):
        # Without the fused integer kernels Q/DQ stand in floating point.
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    if options.threads:
        settings.intra_op_num_threads = options.threads
    return settings


@contextmanager
def _told(path: Path | str, chosen: str) -> Iterator[None]:
    """What ONNX Runtime finds wrong with a graph, in one line."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    try:
        yield
    except state.NotImplemented as error:
        raise BundleError(
            f"{chosen} of ONNX Runtime has no kernel for {path}: {str(error).splitlines()[0]}",
            "Choose another `--precision`, or another backend with `--backend`",
        ) from error
    except (
        state.EPFail,
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoSuchFile,
        state.RuntimeException,
    ) as error:
        raise BundleError(
            f"ONNX Runtime cannot open {path}: {str(error).splitlines()[0]}",
            "Export the bundle again, or install the onnxruntime that `pitstop inspect` names",
        ) from error
    except RuntimeError as error:  # of a provider whose libraries are not there
        raise BackendUnavailable(
            f"ONNX Runtime could not start {chosen}: {str(error).strip().splitlines()[-1]}",
            "Run `pitstop doctor` to see what is missing",
        ) from error


def _provider(asked: str | None, available: list[str]) -> str:
    """The provider that is taken.

    The TensorRT ones build an engine when they open a graph, which takes minutes: they must be
    asked for.
    """
    if asked is None:
        return CUDA if runs_on_gpu() else CPU
    if asked not in available and asked != PLUGIN:
        raise BackendUnavailable(
            f"This ONNX Runtime has no {asked}",
            f"Choose one of: {', '.join(available)}; NVIDIA's need pip install 'pitstop[gpu]'",
        )
    if asked in GRAPH_OPTION and (why := why_not_offered(asked) or why_no_gpu()):
        raise BackendUnavailable(
            f"ONNX Runtime's {asked} cannot run here: {why}",
            "Leave out `--provider`, or run `pitstop doctor` to see what can run",
        )
    return asked


def _plugin_devices() -> Sequence[Any]:
    """The GPUs that the plugin can use, after ONNX Runtime was told of it."""
    onnxruntime = import_onnxruntime()
    plugin = importlib.import_module(PLUGIN_MODULE)
    known = {device.ep_name for device in onnxruntime.get_ep_devices()}
    if PLUGIN not in known:
        onnxruntime.register_execution_provider_library(PLUGIN, plugin.get_library_path())
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == PLUGIN]
    if not devices:
        raise BackendUnavailable(
            f"{PLUGIN} finds no GPU that it can use",
            "It needs an Ampere GPU or newer; choose `--provider CUDAExecutionProvider`",
        )
    return devices[:1]


class OnnxRuntimeSession:
    """A graph that ONNX Runtime holds in memory, fed and emptied through an IO binding."""

    def __init__(self, session: Any, spec: GraphSpec) -> None:
        self._session = session
        self._dtypes = {tensor.name: np.dtype(tensor.dtype) for tensor in spec.inputs}
        self._outputs = [tensor.name for tensor in spec.outputs]
        self._binding = session.io_binding()

    @property
    def device(self) -> str:
        """The execution provider that the session got, which may be less than it asked for."""
        return str(self._session.get_providers()[0])

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        for name, array in feeds.items():
            fed = np.ascontiguousarray(array, dtype=self._dtypes[name])
            self._binding.bind_cpu_input(name, fed)
        for name in self._outputs:
            self._binding.bind_output(name)
        self._session.run_with_iobinding(self._binding)
        return dict(zip(self._outputs, self._binding.copy_outputs_to_cpu(), strict=True))

    def close(self) -> None:
        self._binding = self._session = None
