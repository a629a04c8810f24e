"""What flows between the blocks of a denoiser in one call.

The residual stream is where a denoiser comes apart: what the norm at the head of a block reads is
all that the block before it hands on. Here it is watched in a bundle's fp32 graph;
`torch_block_outputs` watches the same places in PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...graphs.blocks import name_blocks
from ...graphs.graph_file import run_calls
from ...graphs.interface import LABEL, LATENT, MODULATION, TIMESTEP
from ...runtime.backend import Array, Backend, SessionOptions
from ...runtime.backends import import_backend
from ...runtime.bundle.folder import Bundle
from ...runtime.bundle.goldens import Goldens
from ...runtime.bundle.manifest import CONDITIONER
from ...runtime.pipeline import beside
from ...runtime.sampling.conditioning import ask_conditioner
from ...runtime.sampling.sampler import Latent

Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class Flow:
    """What goes through a denoiser in one call.

    Attributes:
        feeds: latent float32 [batch, channel, row, column], timestep float32 [batch], label int64
            [batch]; and modulation float32 [batch, chunk, channel] where a conditioner makes it.
        leaving: What leaves each block, by its name in order: float32 [batch, token, channel],
            the tokens in the graph's order, and the prediction at the end.
    """

    feeds: Feeds
    leaving: Mapping[str, Latent]


def golden_calls(goldens: Goldens, batch: int) -> list[Feeds]:
    """The goldens' single calls, each with as many of its rows, or repeats of them, as fit."""
    calls = zip(goldens.latents, goldens.timesteps, goldens.labels, strict=True)
    return [
        {
            LATENT: np.resize(latent, (batch, *latent.shape[1:])),
            TIMESTEP: np.full(batch, timestep, dtype=np.float32),
            LABEL: np.resize(labels, batch),
        }
        for latent, timestep, labels in calls
    ]


def find_streams(graph: ir.Graph) -> dict[str, ir.Value]:
    """What leaves each block, by the block's name in order; the prediction is last."""
    leaving: dict[str, ir.Value] = {}
    before = ""
    for node, name in name_blocks(graph).items():
        if before not in {"", name}:
            assert node.inputs[0] is not None
            leaving[before] = node.inputs[0]
        before = name
    return {**leaving, before: graph.outputs[0]}


def graph_flows(bundle: Bundle, calls: Sequence[Feeds]) -> list[Flow]:
    """Watch the bundle's own fp32 graphs, on ONNX Runtime's CPU provider."""
    backend, options = import_backend("onnxruntime"), SessionOptions("CPUExecutionProvider")
    spec = bundle.manifest.denoiser("fp32")
    model = ir.load(bundle.path(spec.path))
    streams = find_streams(model.graph)
    model.graph.outputs[:] = list(streams.values())
    made = make_modulations(bundle, backend, options, calls)
    fed = [{**feeds, **modulation} for feeds, modulation in zip(calls, made, strict=True)]
    asked = [{tensor.name: feeds[tensor.name] for tensor in spec.inputs} for feeds in fed]
    return [
        Flow(feeds, {name: answer[str(value.name)] for name, value in streams.items()})  # type: ignore[misc]
        for feeds, answer in zip(fed, run_calls(model, asked), strict=True)
    ]


def make_modulations(
    bundle: Bundle, backend: Backend, options: SessionOptions, calls: Sequence[Feeds]
) -> list[Feeds]:
    """What the bundle's conditioner adds to the feeds of each call: nothing where it has none."""
    spec = bundle.manifest.graphs.get(CONDITIONER)
    if spec is None:
        return [{} for _ in calls]
    timesteps = np.concatenate([feeds["timestep"] for feeds in calls])
    labels = np.concatenate([feeds["label"] for feeds in calls]).astype(np.int64)
    session = beside(backend).open_graph(bundle.path(spec.path), spec, options)
    try:
        made = ask_conditioner(session, spec, timesteps, labels)
    finally:
        session.close()
    return [{MODULATION: part} for part in np.split(made, len(calls))]
