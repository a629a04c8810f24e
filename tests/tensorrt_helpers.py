"""The real TensorRT-RTX, whose parser and builder need no GPU."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import pytest

MISSING = "{} is not installed (pip install 'pitstop[tensorrt-rtx]')"


def import_trt() -> Any:
    """TensorRT-RTX's Python API; the other wheel holds the libraries that it needs."""
    for module, package in [
        ("onnxruntime_ep_nv_tensorrt_rtx", "onnxruntime-ep-nv-tensorrt-rtx-cu13"),
        ("tensorrt_rtx_bindings", "tensorrt-rtx-cu13-bindings"),
    ]:
        bindings = pytest.importorskip(module, reason=MISSING.format(package), exc_type=ImportError)
    return bindings


def complaints_and_plan(trt: Any, model: ir.Model) -> tuple[list[str], bytes]:
    """What the parser and the builder object to, and the engine for one Ada GPU (8.9)."""

    class Complaints(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.messages: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in {trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR}:
                self.messages.append(message)

    logger = Complaints()
    builder = trt.Builder(logger)
    strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(strongly_typed)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(ir.to_proto(model).SerializeToString()):
        return [str(parser.get_error(index)) for index in range(parser.num_errors)], b""
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    plan = builder.build_serialized_network(network, config)
    return logger.messages, b"" if plan is None else bytes(plan)
