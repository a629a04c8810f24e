"""The yardstick: the same matmuls by every library, and FLOP/s by hand."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from bundle_helpers import toy_manifest

from pitstop.evaluation.speed.matmul.chain import LINKS, Chain, chain_of
from pitstop.evaluation.speed.matmul.graph import PRECISIONS, write_chain
from pitstop.evaluation.speed.matmul.peak import open_chains, peak_flops, time_chain
from pitstop.runtime.backend import SessionOptions
from pitstop.runtime.backends import import_backend
from pitstop.runtime.bundle.folder import GraphFile
from pitstop.runtime.bundle.manifest import Manifest

ONE_THREAD = SessionOptions(threads=1)
SMALL = Chain(rows=16, width=32, inner=64)
TOLERANCE = {"fp32": 1e-5, "fp16": 1e-2, "bf16": 5e-2, "int8": 0.15}


def with_config(**config: object) -> Manifest:
    manifest = toy_manifest(batch=3)
    return dataclasses.replace(manifest, model=dataclasses.replace(manifest.model, config=config))


def test_the_chain_has_the_sizes_of_the_models_mlp() -> None:
    manifest = with_config(hidden_size=24, mlp_ratio=4.0, patch_size=2)

    assert chain_of(manifest) == Chain(rows=3 * 4 * 4, width=24, inner=96)
    assert chain_of(toy_manifest()) is None


def test_a_multiply_add_counts_as_two() -> None:
    assert Chain(rows=2, width=3, inner=5).flops == 2 * (2 * 3 * 5) * 2 * LINKS


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_written_chain_multiplies(tmp_path: Path, precision: str) -> None:
    backend = import_backend("openvino")
    if why := backend.why_not():
        pytest.skip(why)
    spec = write_chain(SMALL, precision, tmp_path / "chain.onnx")
    wanted = SMALL.draw_input().astype(np.float64)
    up, down = SMALL.draw_weights()
    for _ in range(LINKS):
        wanted = wanted @ up @ down

    session = backend.open_graph(GraphFile(tmp_path / "chain.onnx", spec), ONE_THREAD)
    found = session.run({"x": SMALL.draw_input()})["y"]

    distance = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
    assert distance <= TOLERANCE[precision]
    assert precision == "fp32" or distance > TOLERANCE["fp32"]


def test_every_library_that_is_here_runs_the_chain(tmp_path: Path) -> None:
    chains = open_chains(SMALL, ONE_THREAD, tmp_path)
    for _, run in chains.values():
        run()

    names = {name.split(",")[0] for name in chains}
    assert {"torch fp32", "torch bf16", "torch int8", "onnxruntime fp32"} <= names
    assert all(name.endswith(", 16 x 32 x 64") for name in chains)


def test_without_torch_and_onnx_numpy_is_the_yardstick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "onnx", None)

    [name] = open_chains(SMALL, SessionOptions(), tmp_path)
    told_threads = open_chains(SMALL, ONE_THREAD, tmp_path)

    assert name == "numpy fp32, 16 x 32 x 64"
    assert told_threads == {}


def test_the_first_run_of_a_turn_does_not_count() -> None:
    readings = iter([0.0, 100.0, 200.0, 203.0, 300.0, 304.0, 400.0, 405.0, 500.0, 506.0])

    assert time_chain(lambda: None, lambda: next(readings)) == [3.0, 4.0, 5.0, 6.0]


def test_flops_are_those_of_the_median_run_the_fastest_chain_first() -> None:
    chains = {"slow": (SMALL, lambda: None), "fast": (SMALL, lambda: None)}

    reached = peak_flops(chains, {"slow": [[9.0, 4.0], [4.0]], "fast": [[1.0, 2.0], [3.0]]})

    assert list(reached.items()) == [("fast", SMALL.flops / 2.0), ("slow", SMALL.flops / 4.0)]
