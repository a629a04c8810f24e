"""OpenVINO: the backend for CPUs.

A graph is calculated in the precision that is written in it. Left to itself, OpenVINO calculates
in bf16 wherever the CPU can, fp32 graphs too (a relative L2 of 4e-3 instead of 6e-7). Its hint
``f32`` forbids that, and no more: tensors that the graph declares as bf16 stay bf16 beside others
that it keeps in fp32, and the matmuls between Q/DQ pairs run in int8. So the hint is the same for
all graphs, and no graph is asked what it is. fp16 is the exception: with ``f32`` it is calculated
in fp32, from the weights that were rounded to fp16; the hint ``f16`` gives bf16 on a CPU that has
bf16 but not fp16.
"""

from __future__ import annotations

import importlib.util
import platform
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ... import BackendUnavailable, BundleError
from ..backend import Place, Rank, SessionOptions
from ..bundle.folder import GraphFile
from ..bundle.manifest import GraphSpec, TensorSpec
from ..session import Array

NEEDS_ENGINE = False

TELEMETRY = "openvino_telemetry"
X86 = ("x86_64", "AMD64")  # as platform.machine has it


def why_not() -> str | None:
    if importlib.util.find_spec("openvino") is None:
        return "the package openvino is not installed (pip install 'pitstop[openvino]')"
    return None


def rank(options: SessionOptions, engines: Collection[str]) -> Rank | None:
    if options.provider is not None:
        return None
    if platform.machine() in X86:
        return Place.FASTER_CPU, "it goes before onnxruntime on x86 CPUs"
    return Place.LAST, "nothing else runs here"


def open_graph(graph: GraphFile, options: SessionOptions) -> OpenVinoSession:
    path, spec = graph.path, graph.spec
    if options.provider is not None:
        raise BackendUnavailable(
            f"OpenVINO has no {options.provider}: execution providers are ONNX Runtime's",
            "Leave out `--provider`, or choose `--backend onnxruntime`",
        )
    with _without_telemetry():
        import openvino
    failures = (
        RuntimeError,
        UnicodeDecodeError,  # of a name in the graph
        openvino.frontend.GeneralFailure,
        openvino.frontend.InitializationFailure,
        openvino.frontend.NotImplementedFailure,
        openvino.frontend.OpConversionFailure,
        openvino.frontend.OpValidationFailure,
    )
    try:
        # Core.read_model would try all its readers in turn, and TensorFlow's prints.
        reader = openvino.frontend.FrontEndManager().load_by_framework("onnx")
        model = reader.convert(reader.load(path))
        compiled = openvino.Core().compile_model(model, "CPU", _settings(options))
    except failures as error:
        raise BundleError(
            f"OpenVINO cannot open {path}: {_what_happened(error)}",
            "Export the bundle again, or choose `--backend onnxruntime`",
        ) from error
    _check_side(path, "takes", compiled.inputs, spec.inputs)
    _check_side(path, "gives", compiled.outputs, spec.outputs)
    return OpenVinoSession(compiled, spec)


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Keep OpenVINO's telemetry out while OpenVINO is imported.

    By itself the import (openvino/tools/ovc/__init__.py) sends an event to Google Analytics and
    leaves an identifier in the home folder. Where the package that does it cannot be imported,
    OpenVINO takes a stub of its own.
    """
    held = sys.modules.get(TELEMETRY)
    sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # its import fails
    try:
        yield
    finally:
        del sys.modules[TELEMETRY]
        if held is not None:
            sys.modules[TELEMETRY] = held


def _settings(options: SessionOptions) -> dict[str, object]:
    settings: dict[str, object] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        # Else activations that meet int8 weights are rounded to int8 where the graph has fp32.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        # Else two processes of one thread each meet on one core, while the next one idles.
        "ENABLE_CPU_PINNING": False,
    }
    if options.threads:
        settings["INFERENCE_NUM_THREADS"] = options.threads
    return settings


def _what_happened(error: Exception) -> str:
    """The last line of an OpenVINO error; those before it are of its own source."""
    return str(error).strip().splitlines()[-1].strip("- .")


def _check_side(path: Path, verb: str, ports: Sequence[Any], wanted: Sequence[TensorSpec]) -> None:
    """Check a graph's inputs or outputs: OpenVINO opens an empty file as an empty graph."""
    names = {tensor.name for tensor in wanted}
    found = sorted(_as_text(port, names) for port in ports)
    listed = sorted(
        f"{tensor.name} {tensor.dtype} [{','.join(map(str, tensor.shape))}]" for tensor in wanted
    )
    if found != listed:
        raise BundleError(
            f"The graph {path} {verb} {', '.join(found) or 'nothing'}, but the manifest says "
            f"{', '.join(listed)}",
            "Export the bundle again",
        )


def _as_text(port: Any, names: set[str]) -> str:
    """A port as ``latent float32 [2,4,32,32]``; it also has the names of what is folded into it."""
    name = min(port.names & names or port.names)
    return f"{name} {port.element_type.to_dtype()} {port.partial_shape}"


class OpenVinoSession:
    """A graph that OpenVINO has compiled.

    Inputs are read where they lie; outputs are copied, since the next call overwrites them.
    """

    def __init__(self, compiled: Any, spec: GraphSpec) -> None:
        self._request = compiled.create_infer_request()
        self._outputs = [tensor.name for tensor in spec.outputs]

    @property
    def device(self) -> str:
        return "OpenVINO CPU"

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        outputs = self._request.infer(dict(feeds), share_inputs=True, share_outputs=False)
        return {name: outputs[name] for name in self._outputs}

    def close(self) -> None:
        self._request = None
