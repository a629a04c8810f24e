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
from ...graphs.interface import LATENT, TIMESTEP
from ...runtime.backend import Backend, SessionOptions
from ...runtime.backends import import_backend
from ...runtime.bundle.folder import Bundle
from ...runtime.bundle.goldens import Goldens
from ...runtime.opened import conditioner_of
from ...runtime.sampling.sampler import Latent
from ...runtime.session import Array

Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class Flow:
    """What goes through a denoiser in one call.

    Attributes:
        feeds: latent float32 [batch, channel, row, column], timestep float32 [batch], label int64
            [batch]; and modulation float32 [batch, chunk, channel] where a conditioner makes it.
        leaving: What leaves each block, by its name in order: float32 [batch, token, channel],
            or [row, channel] where the graph has all tokens in one axis, in the graph's order; and
            the prediction at the end.
    """

    feeds: Feeds
    leaving: Mapping[str, Latent]


def golden_calls(goldens: Goldens, batch: int) -> list[Feeds]:
    """The goldens' single calls, each with as many of its rows, or repeats of them, as fit."""
    return [
        {
            LATENT: np.resize(call.latent, (batch, *call.latent.shape[1:])),
            TIMESTEP: np.full(batch, call.timestep, dtype=np.float32),
            **{
                name: np.resize(rows, (batch, *rows.shape[1:]))
                for name, rows in call.conditions.items()
            },
        }
        for call in goldens.calls
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
    conditioner = conditioner_of(bundle, backend, options)
    if conditioner is None:
        return [{} for _ in calls]
    together = {name: np.concatenate([feeds[name] for feeds in calls]) for name in calls[0]}
    with conditioner.opened() as ask:
        made = ask(together)
    parts = {name: np.split(rows, len(calls)) for name, rows in made.items()}
    return [{name: rows[call] for name, rows in parts.items()} for call in range(len(calls))]
