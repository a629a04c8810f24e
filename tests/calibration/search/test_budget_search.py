from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from bundle_helpers import some_latent, toy_manifest, write_bundle
from calibration_helpers import ONE_THREAD
from stage_helpers import Heard

from pitstop.calibration.observed.ranges import ActivationRange, Ranges
from pitstop.calibration.qdq.placement import Site
from pitstop.calibration.search import budget_search as tuning
from pitstop.calibration.search.budget import open_log
from pitstop.calibration.search.budget_search import search_key, tune
from pitstop.calibration.sets.calibration_set import CalibrationSet
from pitstop.graphs.weights import add_constant
from pitstop.runtime.bundle.folder import open_bundle
from pitstop.runtime.sampling.settings import Settings

SITES = [Site("good", "x", "a"), Site("bad", "h", "b"), Site("worst", "g", "c")]
RANGES = Ranges("ab" * 32, "mse", {"x": ActivationRange(1.0, 1.0, 1)}, {})


def held_out(**fields: Any) -> CalibrationSet:
    rows = CalibrationSet(
        some_latent(3),
        np.array([999, 500, 0]),
        {"label": np.array([0, 1, 3])},
        {},
        Settings(3, cfg_scale=1.5),
        seed=1,
    )
    return dataclasses.replace(rows, **fields)


def spoilt(model: ir.Model, factor: float) -> ir.Model:
    """The toy denoiser, whose answers it multiplies."""
    copy = model.clone()
    [tanh] = [node for node in copy.graph if node.op_type == "Tanh"]
    constant = add_constant(copy.graph, "factor", np.array(factor, np.float32))
    output = tanh.outputs[0]
    product = ir.node("Mul", [output, constant])
    product.outputs[0].shape, product.outputs[0].type = output.shape, output.type
    output.name, product.outputs[0].name = "answer", output.name
    copy.graph.insert_after(tanh, product)
    copy.graph.outputs[0] = product.outputs[0]
    return copy


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "SEEDS", range(2))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("split", [False, True])
def test_sites_are_ranked_by_calls_and_kept_until_trajectories_are_close(
    tmp_path: Path, split: bool
) -> None:
    bundle = open_bundle(write_bundle(tmp_path / "toy", toy_manifest(split=split)))
    fp32 = ir.load(bundle.path(bundle.manifest.denoiser("fp32").path))
    heard = Heard()
    cost = {"good": 1e-5, "bad": 0.02, "worst": np.nan}

    found = tune(
        bundle,
        fp32,
        lambda chosen: spoilt(fp32, 1.0 + sum(cost[site.name] for site in chosen)),
        SITES,
        held_out(),
        precision="int8",
        budget_db=60.0,
        log=open_log(tmp_path / "log.jsonl", "a"),
        options=ONE_THREAD,
        on_stage=heard,
    )

    steps = held_out().settings.steps
    assert heard.all_steps[0] == heard.moved[0] == len(tuning.SEEDS) * steps
    assert heard.stages[1:3] == [
        "measuring each site alone",
        "trajectories with 0 of 3 sites kept",
    ]
    assert found.errors == {
        "worst": np.inf,
        "bad": pytest.approx(0.02, rel=1e-3),
        "good": pytest.approx(1e-5, rel=0.1),
    }
    assert found.passed
    assert found.chosen.kept == ("worst", "bad")
    kept_to_psnr = {len(point.kept): point.psnr_db for point in found.points}
    assert kept_to_psnr[0] == -np.inf
    assert kept_to_psnr[1] < 60.0 < kept_to_psnr[2]


def test_a_search_goes_by_all_that_its_measurements_depend_on() -> None:
    keys = [
        search_key(RANGES, "int8", 8, "cd", SITES, held_out()),
        search_key(
            dataclasses.replace(RANGES, method="minmax"), "int8", 8, "cd", SITES, held_out()
        ),
        search_key(RANGES, "int8", 7, "cd", SITES, held_out()),
        search_key(RANGES, "fp8", 8, "cd", SITES, held_out()),
        search_key(RANGES, "int8", 8, "ef", SITES, held_out()),
        search_key(RANGES, "int8", 8, "cd", SITES[:2], held_out()),
        search_key(RANGES, "int8", 8, "cd", SITES, held_out(seed=2)),
        search_key(RANGES, "int8", 8, "cd", SITES, held_out(settings=Settings(4))),
        search_key(RANGES, "int8", 8, "cd", SITES, held_out().first(2)),
    ]

    assert len(set(keys)) == len(keys)
    assert search_key(RANGES, "int8", 8, "cd", SITES, held_out()) == keys[0]
