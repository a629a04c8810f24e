"""How far each block of a denoiser is from PyTorch's, when both are fed the same.

The graph is taken apart at its residual stream, and each block is fed what PyTorch's was. So an
error stays in the block that makes it, and the first bad block stands out: in the whole graph all
blocks behind it would be as far off.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...graphs.graph_file import write_graph
from ...graphs.interface import MODULATION, TIMESTEP
from ...runtime.backend import Backend, SessionOptions
from ...runtime.bundle.folder import Bundle, GraphFile
from ...runtime.bundle.manifest import CONDITIONER, TensorSpec
from ...runtime.bundle.precision import PRECISIONS
from ...runtime.distance import relative_l2
from ...runtime.session import Array
from ...runtime.temporary import temporary_folder
from .block_outputs import Flow, find_streams, make_modulations


@dataclass(frozen=True)
class BlockErrors:
    """The distance of each block from the reference's, fed the same.

    Attributes:
        reference: Whose blocks these are held against.
        calls: The relative L2 of what leaves each block, one for each call; in the order of the
            network, the conditioner first.
        timesteps: Of those calls.
        limit: What the rounding of the precision explains; a block above it is bad.
    """

    reference: str
    calls: Mapping[str, tuple[float, ...]]
    timesteps: tuple[float, ...]
    limit: float

    @functools.cached_property
    def relative_l2(self) -> dict[str, float]:
        """Of each block, the worst call; not a number where one call's is none."""
        return {name: float(np.max(errors)) for name, errors in self.calls.items()}

    @property
    def bad(self) -> list[str]:
        """The blocks above the limit, in the order of the network."""
        return [name for name, error in self.relative_l2.items() if not error <= self.limit]

    @property
    def worst(self) -> str:
        return max(self.relative_l2, key=lambda name: self.relative_l2[name])


@dataclass(frozen=True)
class Apart:
    """A denoiser whose blocks do not feed each other.

    Attributes:
        model: The graph.
        fed: The input that each block but the first reads, by the name of the block before it.
        left: The output that leaves each block.
    """

    model: ir.Model
    fed: Mapping[str, str]
    left: Mapping[str, str]


class NotApart(ValueError):
    """The graph's blocks are not those of the reference."""


def take_apart(model: ir.Model) -> Apart:
    """Cut a copy of a denoiser where its blocks hand on the residual stream."""
    model = model.clone()
    graph = model.graph
    streams = find_streams(graph)
    *inner, _ = streams.items()
    fed = {}
    for name, value in inner:
        fed[name] = f"{value.name}_fed"
        source = ir.Value(name=fed[name], shape=value.shape, type=value.type)
        value.replace_all_uses_with(source)
        graph.inputs.append(source)
        graph.outputs.append(value)
    return Apart(model, fed, {name: str(value.name) for name, value in streams.items()})


def measure_blocks(
    bundle: Bundle,
    precision: str,
    backend: Backend,
    options: SessionOptions,
    flows: Sequence[Flow],
    *,
    reference: str,
) -> BlockErrors:
    """Hold each block of a denoiser, and its conditioner, against a reference's flows.

    Raises:
        NotApart: The graph has other blocks than the reference.
        PitstopError: The backend cannot open the graph once it is apart.
    """
    spec = bundle.manifest.denoiser(precision)
    apart = take_apart(ir.load(bundle.path(spec.path)))
    if list(apart.left) != list(flows[0].leaving):
        raise NotApart(f"its blocks are {_some(apart.left)}, not {_some(flows[0].leaving)}")
    errors: dict[str, tuple[float, ...]] = {}
    if CONDITIONER in bundle.manifest.graphs:
        made = make_modulations(bundle, backend, options, [flow.feeds for flow in flows])
        errors[CONDITIONER] = tuple(
            relative_l2(flow.feeds[MODULATION], feeds[MODULATION])
            for flow, feeds in zip(flows, made, strict=True)
        )
    answers = _run(apart, backend, options, flows)
    for name, left in apart.left.items():
        errors[name] = tuple(
            relative_l2(flow.leaving[name], answer[left])
            for flow, answer in zip(flows, answers, strict=True)
        )
    timesteps = tuple(float(flow.feeds[TIMESTEP][0]) for flow in flows)
    return BlockErrors(reference, errors, timesteps, PRECISIONS[precision].block_limit)


def _run(
    apart: Apart, backend: Backend, options: SessionOptions, flows: Sequence[Flow]
) -> list[dict[str, Array]]:
    with temporary_folder() as folder:
        spec = write_graph(apart.model, folder, "apart")
        session = backend.open_graph(GraphFile(folder / spec.path, spec), options)
        try:
            return [session.run(_feeds(apart, flow, spec.inputs)) for flow in flows]
        finally:
            session.close()


def _feeds(apart: Apart, flow: Flow, inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    fed = {value: flow.leaving[name] for name, value in apart.fed.items()}
    known: dict[str, Array] = {**flow.feeds, **fed}
    return {tensor.name: known[tensor.name] for tensor in inputs}


def _some(names: Iterable[str]) -> str:
    first, *others = names
    return f"{first} and {len(others)} more"
