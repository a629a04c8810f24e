"""Denoisers to write in a lower precision: folded from tiny models, once for all tests."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from pass_helpers import Array, feeds_for, traced

from pitstop.export.graph_pass import Feeds
from pitstop.export.optimize import DENOISER, Optimized, choose_steps, modulations, optimize
from pitstop.models.denoiser import DenoiserConfig


@functools.cache
def folded(config: DenoiserConfig, left_out: tuple[str, ...] = (), batch: int = 2) -> Optimized:
    """The graphs of a model with random weights: tests must not change them."""
    steps = choose_steps("portable", left_out)
    return optimize(traced(config, batch), feeds_for(config, batch), steps)


def denoiser(config: DenoiserConfig, left_out: tuple[str, ...] = (), batch: int = 2) -> ir.Model:
    return folded(config, left_out, batch).graphs[DENOISER]


def calls_for(
    config: DenoiserConfig, left_out: tuple[str, ...] = (), batch: int = 2
) -> Sequence[Feeds]:
    """One call of `denoiser`."""
    feeds = feeds_for(config, batch)
    graphs = folded(config, left_out, batch).graphs
    if "conditioner" not in graphs:
        return [feeds]
    modulation = modulations(graphs["conditioner"], feeds)
    return [{"latent": feeds["latent"], "modulation": modulation}]


def types(model: ir.Model) -> dict[str, ir.DataType | None]:
    """The type of every value that a node makes."""
    return {str(value.name): value.dtype for node in model.graph for value in node.outputs}


def change_weight(model: ir.Model, name: str, array: Array) -> ir.Model:
    """A copy of the graph with other numbers in an initializer."""
    changed = model.clone()
    value = changed.graph.initializers[name]
    value.const_value = ir.tensor(np.asarray(array, np.float32), name=name)
    return changed
