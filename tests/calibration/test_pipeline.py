"""Whole calibrations of a tiny bundle: what is in it afterwards, and what is where one fails."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from bundle_helpers import one_line
from calibration_helpers import (
    COVERAGE,
    INT8,
    ONE_THREAD,
    QUICK,
    RANGES,
    SET,
    SITES,
    calibrate,
    content,
)
from checkpoint_helpers import tiny_checkpoint
from stage_helpers import Heard

from pitstop import BundleError, CalibrationError, OptionError, PitstopError
from pitstop.calibration import pipeline, results
from pitstop.calibration.observed.observe import observe
from pitstop.calibration.observed.ranges import read_ranges
from pitstop.calibration.pipeline import calibrate_bundle
from pitstop.calibration.qdq.placement import Placement
from pitstop.calibration.qdq.smoothing import apply_smoothing, smooth
from pitstop.calibration.sets.calibration_set import read_set
from pitstop.calibration.sets.feeds import feed
from pitstop.calibration.sets.trajectories import draw_set
from pitstop.export.pipeline import export_bundle
from pitstop.graphs import graph_file
from pitstop.runtime.bundle.folder import open_bundle
from pitstop.runtime.distance import relative_l2
from pitstop.runtime.pipeline import OnStep, Pipeline
from pitstop.runtime.sampling.settings import Settings


def draw(folder: Path, precision: str) -> np.ndarray:
    drawn = Pipeline.from_bundle(folder, precision=precision, options=ONE_THREAD)
    return drawn(labels=[0, 2], steps=3, cfg_scale=1.5, seeds=[0, 1]).latents


def test_the_bundle_has_an_int8_denoiser_that_draws_nearly_the_same(calibrated: Path) -> None:
    manifest = open_bundle(calibrated).manifest

    assert manifest.precisions == ["fp32", "fp16", "int8"]
    assert {INT8, RANGES, SET, COVERAGE} < set(manifest.files)
    assert manifest.denoiser("int8").nodes["QuantizeLinear"] == SITES
    assert 1e-4 < relative_l2(draw(calibrated, "fp32"), draw(calibrated, "int8")) < 0.2
    assert manifest.denoiser("int8").weight_bytes < 0.4 * manifest.denoiser("fp32").weight_bytes


@pytest.fixture(scope="module")
def for_engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for TensorRT: all tokens in one axis, its bridge a sum over shifted grids."""
    folder = tmp_path_factory.mktemp("engines")
    tiny_checkpoint(folder / "model.safetensors")
    bundle = folder / "bundle"
    export_bundle(
        str(folder / "model.safetensors"), bundle, target="tensorrt-rtx", precisions=["fp16"]
    )
    return bundle


def test_a_bundle_for_tensorrt_has_its_attentions_linears_and_its_bridge_in_the_base(
    for_engines: Path,
) -> None:
    report = calibrate(for_engines)

    assert {site.rpartition(".")[2] for site in report.sites} == {"proj", "fc1", "fc2"}
    assert report.passed
    batches = [why for why in report.skipped.values() if "batch" in why]
    assert len(batches) == 2  # of two blocks, q beside k, v and the bridge


def test_a_bridge_that_is_a_sum_over_shifted_grids_is_refused_by_name(for_engines: Path) -> None:
    with pytest.raises(OptionError, match="a sum over shifted grids") as raised:
        calibrate(for_engines, placement=Placement(bridge=True))

    assert "--no-pass shift_taps" in str(raised.value)


def test_the_report_and_the_manifest_tell_what_was_done(bundle: Path) -> None:
    report = calibrate(bundle, placement=Placement(bridge=False))

    [made] = [one for one in open_bundle(bundle).manifest.passes if one.name == "int8"]
    assert report.passed
    assert report.base == "fp16"
    assert len(report.sites) == SITES - 2
    assert report.kept == ()
    assert report.skipped["blocks.0.attn.bridge.dw"] == "the bridge is left out"
    assert 1e-4 < report.relative_l2 < 0.05
    assert (made.rewritten, made.skipped) == (report.sites, report.skipped)
    assert made.relative_l2 == report.relative_l2
    assert (
        report.ranges_sha256
        == read_ranges(
            bundle / RANGES, open_bundle(bundle).manifest.files["graphs/denoiser.fp32.onnx"]
        ).sha256
    )


def test_the_written_graph_is_valid_and_as_the_manifest_says(calibrated: Path) -> None:
    spec = open_bundle(calibrated).manifest.denoiser("int8")
    model = onnx.load(calibrated / spec.path)

    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == [t.name for t in spec.inputs]
    assert [value.name for value in model.graph.output] == [t.name for t in spec.outputs]
    assert len(model.graph.node) == sum(spec.nodes.values())
    assert [opset.version for opset in model.opset_import if not opset.domain] == [spec.opset]


def test_the_base_decides_the_type_of_the_scales(calibrated: Path, bundle: Path) -> None:
    calibrate(bundle, base="fp32")

    def scales(folder: Path) -> Counter[str]:
        constants = onnx.load(folder / INT8).graph.initializer
        found = [
            onnx.numpy_helper.to_array(one) for one in constants if one.name.endswith("_scale")
        ]
        return Counter(scale.dtype.name for scale in found)

    assert scales(bundle) == {"float32": 2 * SITES}
    assert scales(calibrated) == {"float16": 2 * SITES}
    assert relative_l2(draw(calibrated, "int8"), draw(bundle, "int8")) < 0.1


def test_the_coverage_tells_rows_labels_and_every_site(calibrated: Path, bundle: Path) -> None:
    coverage = json.loads((calibrated / COVERAGE).read_text())

    assert coverage["rows"] == len(read_set(calibrated / SET, open_bundle(bundle).manifest)) == 8
    assert coverage["rows_by_label"] == {"shirt": 2, "none": 4, "shoe": 2}
    assert sum(coverage["rows_by_timestep"]) == 8
    sites = set(open_bundle(calibrated).manifest.passes[-1].rewritten)
    for figure in ("saturation", "second_seed", "drift"):
        assert set(coverage[figure]) == sites
    assert all(0 <= share < 0.1 for share in coverage["saturation"].values())
    assert all(0.5 < share < 2 for share in coverage["second_seed"].values())
    assert all(max(filter(None, parts)) == 1.0 for parts in coverage["drift"].values())


def test_two_runs_with_one_seed_write_the_same_bytes(calibrated: Path, bundle: Path) -> None:
    calibrate(bundle)

    assert content(bundle) == content(calibrated)


def test_another_seed_gives_other_ranges(calibrated: Path, bundle: Path) -> None:
    calibrate(bundle, seed=1)

    ours, others = content(bundle), content(calibrated)
    assert {name for name in ours if ours[name] != others[name]} == {
        INT8, RANGES, SET, COVERAGE, "manifest.json"
    }  # fmt: skip


@pytest.mark.parametrize("smoothed", [False, True])
def test_a_second_calibration_takes_the_place_of_the_first(
    calibrated: Path, bundle: Path, tiny_bundle: Path, tmp_path: Path, smoothed: bool
) -> None:
    fresh = Path(shutil.copytree(tiny_bundle, tmp_path / "fresh"))
    calibrate(bundle)

    for folder in (bundle, fresh):
        calibrate(folder, method="minmax", smooth=smoothed, base="fp32")

    assert content(bundle) == content(fresh)
    assert content(bundle)[INT8] != content(calibrated)[INT8]


def test_smoothing_is_in_the_ranges_and_in_the_graph(bundle: Path) -> None:
    plain = calibrate(bundle)

    report = calibrate(bundle, smooth=True)

    ranges = json.loads((bundle / RANGES).read_text())
    assert len(ranges["smoothing"]) == 6  # three places of a block, not the final layer
    assert "smoothing" in {one.name for one in onnx.load(bundle / INT8).graph.initializer}
    assert report.relative_l2 < 1.3 * plain.relative_l2


def test_ranges_are_those_of_the_smoothed_activations(bundle: Path) -> None:
    calibrate(bundle, smooth=True, method="minmax")
    opened = open_bundle(bundle)
    drawn = read_set(bundle / SET, opened.manifest)
    ranges = json.loads((bundle / RANGES).read_text())
    fp32 = ir.load(bundle / "graphs/denoiser.fp32.onnx")

    smoothed = apply_smoothing(fp32, smooth(fp32.graph, ranges["smoothing"]))
    seen = observe(
        smoothed,
        dict.fromkeys(ranges["by_tensor"], -1),
        lambda: feed(opened, drawn, ONE_THREAD),
        ONE_THREAD,
    )

    for name, one in ranges["by_tensor"].items():
        assert one["threshold"] == one["amax"] == seen[name].histogram.amax
        assert one["samples"] == seen[name].histogram.samples


def raises(error: BaseException) -> Callable[..., None]:
    def stop(*arguments: object, **keywords: object) -> None:
        raise error

    return stop


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize(
    ("owner", "name", "error", "caught"),
    [
        (pipeline, "take_ranges", KeyboardInterrupt(), KeyboardInterrupt),
        (pipeline, "quantize", CalibrationError("no", "yes"), CalibrationError),
        (results, "write_graph", OSError(errno.ENOSPC, "No space left"), BundleError),
        (results, "write_set", OSError(errno.ENOSPC, "No space left"), BundleError),
        (results, "write_manifest", KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_what_ends_midway_leaves_the_bundle_as_it_was_and_nothing_beside_it(
    tiny_bundle: Path,
    calibrated: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    again: bool,
    owner: object,
    name: str,
    error: BaseException,
    caught: type[BaseException],
) -> None:
    bundle = Path(shutil.copytree(calibrated if again else tiny_bundle, tmp_path / "bundle"))
    before = content(bundle)
    monkeypatch.setattr(owner, name, raises(error))

    with pytest.raises(caught):
        calibrate(bundle, seed=2)

    assert content(bundle) == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_files_that_are_linked_are_never_written_through(bundle: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    calibrate(bundle)
    before = content(bundle)
    for name in before:
        (kept / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(bundle / name, kept / name)

    calibrate(bundle, seed=1, smooth=True)

    assert content(kept) == before
    assert content(bundle)[INT8] != before[INT8]


def test_big_weights_stand_beside_the_graph_and_go_with_it(
    calibrated: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(graph_file, "INLINE_LIMIT", 0)
        calibrate(bundle)
    drawn = draw(bundle, "int8")
    assert f"{INT8}.data" in open_bundle(bundle).manifest.files

    calibrate(bundle)

    np.testing.assert_array_equal(draw(bundle, "int8"), drawn)
    assert content(bundle) == content(calibrated)


def test_an_int8_graph_holds_its_weights_where_those_of_its_base_stand_beside_it(
    tmp_path: Path, calibrated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = open_bundle(calibrated).manifest
    sizes = [manifest.denoiser(name).weight_bytes for name in ("int8", "fp32")]
    checkpoint = str(tiny_checkpoint(tmp_path / "tiny.safetensors"))
    bundle = tmp_path / "bundle"
    monkeypatch.setattr(graph_file, "INLINE_LIMIT", sum(sizes) // 2)
    export_bundle(checkpoint, bundle)
    assert "graphs/denoiser.fp32.onnx.data" in open_bundle(bundle).manifest.files

    calibrate(bundle, smooth=True)

    assert f"{INT8}.data" not in open_bundle(bundle).manifest.files
    assert relative_l2(draw(bundle, "fp32"), draw(bundle, "int8")) < 0.2


def test_the_stages_and_all_steps_are_told(bundle: Path) -> None:
    heard = Heard()

    calibrate_bundle(bundle, QUICK, options=ONE_THREAD, on_stage=heard)

    assert heard.stages == [
        "drawing 2 trajectories",
        "drawing 1 trajectory more, to check the ranges",
        "looking for loud channels",
        "gathering the ranges of 10 activations",
        "checking the ranges",
        "writing the int8 denoiser",
        "comparing the int8 denoiser with PyTorch",
    ]
    assert heard.all_steps[:2] == [2 * QUICK.steps, QUICK.steps]
    assert heard.moved == heard.all_steps


def test_a_quarter_as_many_trajectories_of_the_next_seed_are_held_out(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def counted(
        pipeline: Pipeline, num: int, settings: Settings, seed: int, on_step: OnStep
    ) -> Any:
        asked.append((num, seed))
        return draw_set(pipeline, num, settings, seed, on_step)

    monkeypatch.setattr(pipeline, "draw_set", counted)
    calibrate(bundle, num=9, steps=2, seed=6)

    assert asked == [(9, 6), (2, 7)]


def test_an_int8_denoiser_with_numbers_that_are_not_finite_is_not_written(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(bundle)
    monkeypatch.setattr(
        "pitstop.calibration.sets.unbundled.relative_l2", lambda *pair: float("inf")
    )

    with pytest.raises(PitstopError) as caught:
        calibrate(bundle)

    assert one_line(caught.value).startswith("The int8 denoiser gives numbers that are not finite")
    assert content(bundle) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "left_out"), [("portable", ["split"]), ("onnxruntime", []), ("tensorrt10", [])]
)
def test_any_target_and_an_unsplit_denoiser_can_be_calibrated(
    tmp_path: Path, target: str, left_out: list[str]
) -> None:
    checkpoint = str(tiny_checkpoint(tmp_path / "tiny.safetensors"))
    bundle = tmp_path / "bundle"
    export_bundle(checkpoint, bundle, target=target, left_out=left_out, precisions=("fp32", "fp16"))

    report = calibrate(bundle, smooth=True, placement=Placement(attention=True))

    assert report.base == ("fp32" if target == "onnxruntime" else "fp16")
    assert len(report.sites) == SITES + 2 * 4
    assert relative_l2(draw(bundle, "fp32"), draw(bundle, "int8")) < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_every_method_makes_a_denoiser(bundle: Path, method: str) -> None:
    report = calibrate(bundle, method=method)

    assert report.relative_l2 < 0.1
    assert json.loads((bundle / RANGES).read_text())["method"] == method
