"""Both loops that keep the latents on a device, on this machine: the host's memory plays the GPU's.

ONNX Runtime's device loop runs on its own CPU memory. The engines' loop runs on made-up CUDA
memory, its engines played by ONNX Runtime: what is drawn shows whether the data flows right, never
whether CUDA or TensorRT do.
"""

from __future__ import annotations

import ctypes
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from bundle_helpers import write_bundle
from made_up_cuda import MadeUpCudart, MadeUpEngine

from pitstop.export.step_graph import step_graph
from pitstop.graphs.graph_file import write_graph
from pitstop.runtime.backend import SessionOptions
from pitstop.runtime.backends import Choice, import_backend
from pitstop.runtime.bundle.folder import Bundle, GraphFile, open_bundle, write_manifest
from pitstop.runtime.bundle.manifest import FILE_NAME, STEP, Manifest, TensorSpec
from pitstop.runtime.devices.cuda import Cuda
from pitstop.runtime.devices.engine_loop import EngineLoop
from pitstop.runtime.devices.engine_session import EngineSession
from pitstop.runtime.devices.onnx_device import DeviceOnnxSession
from pitstop.runtime.opened import OpenedBundle
from pitstop.runtime.sampling.conditioner import Conditioner
from pitstop.runtime.session import Array, Session

DEVICES = ["onnxruntime", "engines"]
OPTIONS = SessionOptions(provider="CPUExecutionProvider", threads=1)


def bundle_with_step(folder: Path, manifest: Manifest) -> Bundle:
    """A toy bundle that has the graph which a device's loop needs."""
    write_bundle(folder, manifest)
    return add_step(Bundle(folder, manifest))


def add_step(bundle: Bundle) -> Bundle:
    step = write_graph(step_graph(bundle.manifest), bundle.folder, STEP)
    graphs = {**bundle.manifest.graphs, STEP: step}
    (bundle.folder / FILE_NAME).unlink()  # it is not a file of its own
    write_manifest(bundle.folder, dataclasses.replace(bundle.manifest, graphs=graphs))
    return open_bundle(bundle.folder)


def open_on(
    device: str, bundle: Bundle, precision: str = "fp32", cudart: MadeUpCudart | None = None
) -> OpenedBundle:
    """A bundle whose latents stay on ``device`` through the loop."""
    graph = bundle.graph(f"denoiser.{precision}")
    session = on_onnxruntime(graph) if device == "onnxruntime" else on_engines(graph, cudart)
    chosen = Choice("onnxruntime", import_backend("onnxruntime"))
    return OpenedBundle(bundle, precision, session, chosen, OPTIONS)


def on_onnxruntime(graph: GraphFile) -> Session:
    return DeviceOnnxSession(
        open_here(graph.path), graph.spec, "cpu", lambda step: open_here(step.path)
    )


def on_engines(graph: GraphFile, cudart: MadeUpCudart | None = None) -> Session:
    cudart = cudart or MadeUpCudart()
    return engines_in(Cuda(cudart), graph, lambda each: played(each, cudart))


def engines_in(cuda: Cuda, graph: GraphFile, load: Callable[[GraphFile], Any]) -> Session:
    """A denoiser's engine, and the step's beside it, in one stream; ``load`` makes an engine."""

    def open_step(
        denoiser: EngineSession,
        manifest: Manifest,
        step: GraphFile,
        conditioner: Conditioner | None,
    ) -> EngineLoop:
        stepping = EngineSession(load(step), step.spec, cuda, "made up")
        return EngineLoop(denoiser, stepping, cuda, manifest, conditioner)

    return EngineSession(load(graph), graph.spec, cuda, "made up", open_step)


def played(graph: GraphFile, cudart: MadeUpCudart) -> Any:
    """An engine on made-up memory that ONNX Runtime plays."""
    session = open_here(graph.path)
    spec = graph.spec

    def compute(places: dict[str, int]) -> None:
        feeds = {tensor.name: at(places[tensor.name], tensor).copy() for tensor in spec.inputs}
        outputs = session.run([tensor.name for tensor in spec.outputs], feeds)
        for tensor, output in zip(spec.outputs, outputs, strict=True):
            at(places[tensor.name], tensor)[...] = output

    return MadeUpEngine(spec, cudart, compute=compute)


def at(address: int, tensor: TensorSpec) -> Array:
    """What lies at an address, as an array that can be written to."""
    size = math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize
    memory = (ctypes.c_char * size).from_address(address)
    return np.frombuffer(memory, tensor.dtype).reshape(tensor.shape)


def open_here(path: Path) -> Any:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
