"""ONNX Runtime: the backend that runs everywhere, on the CPU or through a GPU's provider."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import Array, SessionOptions
from ..errors import BackendUnavailable, BundleError
from ..manifest import GraphSpec

CPU = "CPUExecutionProvider"
# The providers that a session may take by itself, the fastest first. The TensorRT ones build an
# engine when they open a graph, which takes minutes: they must be asked for.
BY_ITSELF = ("CUDAExecutionProvider", CPU)


def why_not() -> str | None:
    if importlib.util.find_spec("onnxruntime") is None:
        return (
            "the package onnxruntime is not installed (pip install 'pitstop[cpu]', or [gpu] for "
            "NVIDIA)"
        )
    return None


def open_graph(path: Path, spec: GraphSpec, options: SessionOptions) -> OnnxRuntimeSession:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3  # errors
    # The order of the file. By default, what only a graph's outputs ask for runs last: with each
    # value's size as an output, the demo at batch 20 holds 1,280 MB instead of 230.
    settings.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    if options.threads:
        settings.intra_op_num_threads = options.threads
    chosen = _provider(options.provider, onnxruntime.get_available_providers())
    try:
        session = onnxruntime.InferenceSession(
            path, settings, providers=list(dict.fromkeys([chosen, CPU]))
        )
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
    return OnnxRuntimeSession(session, spec)


def _provider(asked: str | None, available: list[str]) -> str:
    if asked is None:
        return next(name for name in BY_ITSELF if name in available)
    if asked not in available:
        raise BackendUnavailable(
            f"This ONNX Runtime has no {asked}",
            f"Choose one of: {', '.join(available)}; NVIDIA's need pip install 'pitstop[gpu]'",
        )
    return asked


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
