"""Calibrations with a set or ranges from elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from bundle_helpers import one_line
from calibration_helpers import COVERAGE, INT8, RANGES, SET, SITES, calibrate, content
from checkpoint_helpers import tiny_checkpoint

from pitstop import CalibrationError, OptionError
from pitstop.calibration import pipeline
from pitstop.calibration.qdq.channels import find_scalable
from pitstop.calibration.qdq.placement import Placement
from pitstop.export.pipeline import export_bundle
from pitstop.models.checkpoint import load_checkpoint, save_checkpoint


@pytest.mark.parametrize("base", ["fp16", "fp32"])
def test_given_ranges_make_the_same_graph_without_a_trajectory(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str
) -> None:
    calibrate(bundle, smooth=True, base=base)
    before = content(bundle)
    monkeypatch.setattr(pipeline, "draw_set", None)

    report = calibrate(bundle, base=base, paths={"ranges_path": bundle / RANGES})

    after = content(bundle)
    assert (after[INT8], after[RANGES]) == (before[INT8], before[RANGES])
    assert not {SET, COVERAGE} & set(after)
    assert report.coverage is None


def test_a_given_set_makes_the_same_bytes(calibrated: Path, bundle: Path, tmp_path: Path) -> None:
    carried = Path(shutil.copy(calibrated / SET, tmp_path / "carried.npz"))

    calibrate(bundle, num=9, seed=5, paths={"set_path": carried})

    assert content(bundle) == content(calibrated)


def test_a_set_and_ranges_together_are_refused(calibrated: Path, bundle: Path) -> None:
    both = {"set_path": calibrated / SET, "ranges_path": calibrated / RANGES}

    with pytest.raises(OptionError) as caught:
        calibrate(bundle, paths=both)

    assert one_line(caught.value).startswith("Both a calibration set and ranges were given. ")


def test_ranges_without_the_attention_do_not_serve_for_it(calibrated: Path, bundle: Path) -> None:
    with pytest.raises(CalibrationError) as caught:
        calibrate(
            bundle,
            placement=Placement(attention=True),
            paths={"ranges_path": calibrated / RANGES},
        )

    assert one_line(caught.value).startswith("The ranges have none for matmul.q. Take them again")


def test_ranges_of_all_sites_serve_where_some_are_left_out(calibrated: Path, bundle: Path) -> None:
    report = calibrate(
        bundle, placement=Placement(bridge=False), paths={"ranges_path": calibrated / RANGES}
    )

    assert len(report.sites) == SITES - 2


def test_a_range_beyond_fp16_asks_for_the_other_base(
    calibrated: Path, bundle: Path, tmp_path: Path
) -> None:
    ranges = json.loads((calibrated / RANGES).read_text())
    next(iter(ranges["by_tensor"].values()))["amax"] = 70000.0
    path = tmp_path / "ranges.json"
    path.write_text(json.dumps(ranges))

    with pytest.raises(CalibrationError) as caught:
        calibrate(bundle, paths={"ranges_path": path})

    assert "reads values up to 70000, fp16 ends at 65504. Use `--base fp32`." in one_line(
        caught.value
    )
    assert calibrate(bundle, base="fp32", paths={"ranges_path": path}).base == "fp32"


@pytest.mark.parametrize(
    ("smoothing", "told"),
    [
        (
            {"nobody": [1.0]},
            "has smoothing factors for nobody, which is not smoothed in this graph",
        ),
        ({"": [1.0, 2.0]}, "has 2 smoothing factors for"),
    ],
)
def test_smoothing_factors_of_another_graph_are_refused(
    bundle: Path, tmp_path: Path, smoothing: dict[str, list[float]], told: str
) -> None:
    fp32 = ir.load(bundle / "graphs/denoiser.fp32.onnx").graph
    smoothed = find_scalable(fp32)[0].tensor  # in the place of the empty name
    calibrate(bundle)
    ranges = json.loads((bundle / RANGES).read_text())
    ranges["smoothing"] = {name or smoothed: factors for name, factors in smoothing.items()}
    path = tmp_path / "ranges.json"
    path.write_text(json.dumps(ranges))

    with pytest.raises(CalibrationError) as caught:
        calibrate(bundle, paths={"ranges_path": path})

    assert one_line(caught.value).startswith(f"{path} {told}")


def test_a_bundle_that_keeps_a_loud_block_in_fp32_is_calibrated_on_fp16(tmp_path: Path) -> None:
    path = tiny_checkpoint(tmp_path / "loud.safetensors")
    checkpoint = load_checkpoint(path)
    with torch.no_grad():
        checkpoint.model.blocks[1].mlp.fc1.weight.mul_(1e6)
        checkpoint.model.blocks[1].mlp.fc2.weight.mul_(1e-6)
    save_checkpoint(checkpoint, path)
    bundle = tmp_path / "bundle"
    assert export_bundle(str(path), bundle, precisions=("fp32", "fp16")).passed

    report = calibrate(bundle)

    ranges = json.loads((bundle / RANGES).read_text())["by_tensor"]
    assert max(one["amax"] for one in ranges.values()) > 65504
    assert (report.base, len(report.sites)) == ("fp16", SITES)
