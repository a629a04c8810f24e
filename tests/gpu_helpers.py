"""The shipped model's denoiser, as every backend is asked for it on a GPU."""

from __future__ import annotations

import numpy as np

from pitstop.runtime.backend import SessionOptions
from pitstop.runtime.backends import onnxruntime
from pitstop.runtime.bundle.folder import Bundle, GraphFile
from pitstop.runtime.bundle.manifest import GraphSpec
from pitstop.runtime.session import Array

# How far a GPU may be from ONNX Runtime's CPU in one call, as a relative L2.
TOLERANCE = {"fp32": 1e-5, "fp16": 5e-3}


def some_feeds(spec: GraphSpec, *, seed: int = 0) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    return {
        tensor.name: random.standard_normal(tensor.shape).astype(tensor.dtype)
        for tensor in spec.inputs
    }


def on_cpu(demo: Bundle, spec: GraphSpec, feeds: dict[str, Array]) -> Array:
    """What ONNX Runtime's CPU predicts."""
    options = SessionOptions(provider=onnxruntime.CPU)
    session = onnxruntime.open_graph(GraphFile(demo.path(spec.path), spec), options)
    return session.run(feeds)["prediction"]
