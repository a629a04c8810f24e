"""A bundle that was written before its conditions had names is used as before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import run

from pitstop.calibration.pipeline import calibrate_bundle
from pitstop.calibration.recipe import Recipe
from pitstop.runtime.bundle.folder import open_bundle
from pitstop.runtime.bundle.manifest import SCHEMA_VERSION
from pitstop.runtime.distance import relative_l2
from pitstop.runtime.pipeline import Pipeline

STORED = Path(__file__).parent / "data" / "version_2"
RECIPE = Recipe(num=4, steps=8, cfg_scale=2.0)  # that its int8 denoiser was made by
HERE = ("--backend", "onnxruntime")
TOLERANCES = {"fp32": 1e-5, "fp16": 5e-3, "int8": 0.1}  # other CPUs round int8 otherwise


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(STORED / "bundle", tmp_path / "bundle"))


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp_2m"])
@pytest.mark.parametrize("precision", TOLERANCES)
def test_it_draws_what_it_drew(bundle: Path, precision: str, sampler: str) -> None:
    with np.load(STORED / "drawn.npz") as drawn:
        expected = drawn[f"{precision}.{sampler}"]

    with Pipeline.from_bundle(bundle, backend="onnxruntime", precision=precision) as pipeline:
        found = pipeline(
            [0, "owl", 1], seeds=[3, 4, 5], steps=6, sampler=sampler, cfg_scale=2.5
        ).latents

    assert relative_l2(expected, found) <= TOLERANCES[precision]


def test_it_is_compared_with_its_goldens_and_with_its_checkpoint(bundle: Path) -> None:
    figures = bundle / "figures.json"

    run("compare", bundle, *HERE, "--precision", "fp32,fp16", "--json", figures)
    live = run(
        "compare", bundle, "--checkpoint", STORED / "m.safetensors", "--images", 2, "--steps", 4
    )

    fp32, fp16 = json.loads(figures.read_text())["rows"]
    assert fp32["passed"]
    assert fp16["psnr_db_median"] == pytest.approx(35.9, abs=3)  # random weights, as it was then
    assert live.exit_code == 0, live.output


def test_it_is_calibrated_to_the_ranges_that_it_has(bundle: Path) -> None:
    before = json.loads((bundle / "calibration" / "ranges.json").read_text())

    calibrate_bundle(bundle, RECIPE)

    after = json.loads((bundle / "calibration" / "ranges.json").read_text())
    assert after.keys() == before.keys()
    assert_alike(before, after)
    content = json.loads((bundle / "manifest.json").read_text())
    assert content["schema_version"] == SCHEMA_VERSION
    assert content["conditions"][0]["names"] == ["cat", "dog", "owl"]
    assert open_bundle(bundle).manifest.precisions == ["fp32", "fp16", "int8"]


def test_its_calibration_set_is_read(bundle: Path) -> None:
    report = calibrate_bundle(bundle, RECIPE, set_path=STORED / "bundle/calibration/set.npz")

    assert report.sites


def assert_alike(before: object, after: object) -> None:
    """The same values, up to what another CPU's last bits make of them."""
    if isinstance(before, dict) and isinstance(after, dict):
        assert after.keys() == before.keys()
        for name in before:
            assert_alike(before[name], after[name])
    elif isinstance(before, list) and isinstance(after, list):
        assert len(after) == len(before)
        for one, other in zip(before, after, strict=True):
            assert_alike(one, other)
    elif isinstance(before, float):
        assert after == pytest.approx(before, rel=1e-2)
    else:
        assert after == before
