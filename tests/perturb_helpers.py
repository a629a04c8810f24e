"""Bundles with one block's weights changed a little, as a broken export would leave them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir

from pitstop.graphs.blocks import name_blocks
from pitstop.runtime.bundle.folder import Bundle, open_bundle, write_manifest
from pitstop.runtime.bundle.manifest import CONDITIONER


def perturb(bundle: Path, folder: Path, block: str, precision: str = "fp32") -> Path:
    """Copy a bundle, with 1 % of noise on every weight of one block, or of the conditioner."""
    opened = open_bundle(bundle)
    spec = (
        opened.manifest.graphs[CONDITIONER]
        if block == CONDITIONER
        else opened.manifest.denoiser(precision)
    )
    model = ir.load(opened.path(spec.path))
    add_noise(model.graph, block)
    return replace_graph(opened, folder, spec.path, model)


def add_noise(graph: ir.Graph, block: str) -> None:
    """Add 1 % of noise to the weights that no other block reads."""
    rng = np.random.default_rng(0)
    blocks = {} if block == CONDITIONER else name_blocks(graph)
    for value in graph.initializers.values():
        assert value.const_value is not None
        array = value.const_value.numpy()
        readers = {blocks.get(node, CONDITIONER) for node in value.consumers()}
        if array.dtype.kind == "f" and readers == {block}:
            noisy = array * (1 + 0.01 * rng.standard_normal(array.shape))
            value.const_value = ir.tensor(noisy.astype(array.dtype), name=value.name)


def replace_graph(opened: Bundle, folder: Path, path: str, model: ir.Model) -> Path:
    """A copy of a bundle with another graph in it, and the hashes that belong to it."""
    shutil.copytree(opened.folder, folder)
    (folder / "manifest.json").unlink()
    ir.save(model, folder / path)
    write_manifest(folder, opened.manifest)
    return folder
