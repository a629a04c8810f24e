from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundle_helpers import toy_manifest, write_bundle
from cli_helpers import refused, run, without_stages

from pitstop.calibration.search import budget_search as tuning
from pitstop.runtime.bundle.folder import open_bundle

QUICK = ("--num", 2, "--steps", 4, "--cfg-scale", 1.5, "--threads", 1)


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "toy", toy_manifest(split=True))


def test_a_calibrated_bundle_draws_and_compares_in_int8(bundle: Path, tmp_path: Path) -> None:
    made = run("calibrate", bundle, *QUICK, "--smooth", "--json", tmp_path / "c.json")

    assert made.exit_code == 0, made.output
    assert "10 sites on fp16; 2 layers left alone" in made.output
    assert "8 rows; at most" in made.output
    assert "budget" not in made.output
    figures = json.loads((tmp_path / "c.json").read_text())
    assert figures["ranges_sha256"] == open_bundle(bundle).manifest.files["calibration/ranges.json"]
    assert len(figures["sites"]) == 10
    assert (figures["kept_high_precision"], figures["pareto"], figures["passed"]) == ([], [], True)
    assert figures["budget_db"] is figures["psnr_db"] is None

    drawn = run("generate", bundle, "--precision", "int8", "--num", 1, "--steps", 3, "--out",
                tmp_path / "out")  # fmt: skip
    assert drawn.exit_code == 0, drawn.output
    compared = run("compare", bundle, "--precision", "int8", "--json", tmp_path / "g.json")
    assert compared.exit_code in {0, 1}, compared.output
    assert json.loads((tmp_path / "g.json").read_text())["precision"] == "int8"
    inspected = run("inspect", bundle)
    assert "denoiser.int8" in inspected.output


def test_weights_of_7_bits_are_in_the_graph_the_manifest_and_the_figures(
    bundle: Path, tmp_path: Path
) -> None:
    made = run("calibrate", bundle, *QUICK, "--weight-bits", 7, "--json", tmp_path / "c.json")

    assert made.exit_code == 0, made.output
    assert "10 sites on fp16, weights of 7 bits; 2 layers" in " ".join(made.output.split())
    assert json.loads((tmp_path / "c.json").read_text())["weight_bits"] == 7
    opened = open_bundle(bundle)
    assert opened.manifest.weight_bits("int8") == 7
    constants = onnx.load(opened.path(opened.manifest.denoiser("int8").path)).graph.initializer
    levels = [onnx.numpy_helper.to_array(one) for one in constants if one.name.endswith("_int8")]
    assert len(levels) == 10
    assert {int(np.abs(one.astype(int)).max()) for one in levels} == {63}


def test_a_budget_that_is_not_met_is_exit_1_and_keeps_the_best(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "SEEDS", range(2))

    result = run("calibrate", bundle, *QUICK, "--budget", 300, "--json", tmp_path / "c.json")

    assert result.exit_code == 1, result.output
    assert "300 dB not met: the best that was found is kept" in " ".join(result.output.split())
    assert "sites kept" in result.output
    assert "int8" in open_bundle(bundle).manifest.precisions
    figures = json.loads((tmp_path / "c.json").read_text())
    assert (figures["budget_db"], figures["passed"]) == (300, False)
    assert figures["pareto"][-1]["psnr_db"] == figures["psnr_db"]
    assert figures["pareto"][-1]["kept"] == figures["kept_high_precision"]


def test_a_budget_that_is_met_is_exit_0(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "SEEDS", range(2))

    result = run("calibrate", bundle, *QUICK, "--budget", 3)

    assert result.exit_code == 0, result.output
    assert "3 dB met" in result.output
    assert "nothing" in result.output


def test_the_switches_reach_the_graph(bundle: Path, tmp_path: Path) -> None:
    result = run("calibrate", bundle, *QUICK, "--attention", "--no-bridge", "--base", "fp32",
                 "--method", "minmax", "--seed", 3, "--json", tmp_path / "c.json")  # fmt: skip

    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "c.json").read_text())
    assert figures["base"] == "fp32"
    assert len(figures["sites"]) == 10 - 2 + 2 * 4
    assert figures["skipped"]["blocks.0.attn.bridge.dw"] == "the bridge is left out"
    ranges = json.loads((bundle / "calibration" / "ranges.json").read_text())
    assert ranges["method"] == "minmax"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--num", 0], "0 trajectories were asked for. Choose 1 to 1048576 with `--num`."),
        (["--num", -3], "-3 trajectories were asked for."),
        (["--seed", -1], "The seed is -1. Choose one from 0 to 1048575."),
        (["--method", "max"], "There is no method called 'max'. Choose one of: minmax, "),
        (["--base", "int4"], "There is no base called 'int4'. Choose one of: fp16, fp32."),
        (["--weight-bits", 6], "The weights' bits are 6. Choose 8 or 7."),
        (["--weight-bits", 7, "--attention"], "`--weight-bits 7` has no weights to act on in"),
        (["--budget", "nan"], "The budget is nan dB."),
        (["--steps", 0], "0 sampling steps were asked for. Choose 1 to 1000 steps"),
        (["--steps", 1001], "1001 sampling steps were asked for."),
        (["--cfg-scale", -1], "The guidance scale is -1.0. Choose a number of at least 0."),
        (["--provider", "Abacus"], "This ONNX Runtime has no Abacus."),
        (["--json", "nowhere/c.json"], "nowhere/c.json cannot be written"),
    ],
)
def test_an_option_that_cannot_be_is_told_in_one_line(
    tiny_bundle: Path, options: list[object], told: str
) -> None:
    before = (tiny_bundle / "manifest.json").read_bytes()

    line = refused("calibrate", tiny_bundle, *options)

    assert line.startswith(f"pitstop: {told}")
    assert (tiny_bundle / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ("--ranges", ["--method", "mse"]),
        ("--ranges", ["--smooth"]),
        ("--ranges", ["--num", 64]),
        ("--ranges", ["--cfg-scale", 4]),
        ("--ranges", ["--budget", 40, "--smooth"]),
        ("--set", ["--num", 8]),
        ("--set", ["--steps", 50]),
        ("--set", ["--seed", 0]),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    tiny_bundle: Path, given: str, options: list[object]
) -> None:
    line = refused("calibrate", tiny_bundle, given, "a file", *options)

    idle = next(option for option in reversed(options) if str(option).startswith("--"))
    assert line == f"pitstop: `{idle}` does nothing beside `{given}`. Leave out `{idle}`."


def test_a_bundle_can_be_calibrated_from_inside_its_folder(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle)

    done = run("calibrate", ".", *QUICK, "--budget", 3, "--json", "../c.json")

    assert done.exit_code == 0, done.output
    assert "int8" in open_bundle(bundle).manifest.precisions
    assert json.loads((bundle.parent / "c.json").read_text())["bundle"] == str(bundle)


def test_ranges_and_a_budget_take_what_trajectories_are_drawn_with(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "SEEDS", range(2))
    assert run("calibrate", bundle, *QUICK).exit_code == 0
    ranges = shutil.copy(bundle / "calibration" / "ranges.json", tmp_path)

    done = run("calibrate", bundle, *QUICK, "--ranges", ranges, "--budget", 3)

    assert done.exit_code == 0, done.output


def test_files_that_do_not_fit_are_told_in_one_line(tiny_bundle: Path, tmp_path: Path) -> None:
    empty, foreign, text = (tmp_path / name for name in ("empty.npz", "foreign.npz", "ranges.json"))
    empty.touch()
    np.savez(foreign, weights=np.zeros(3))
    text.write_text("{}")

    assert "holds no calibration set" in refused("calibrate", tiny_bundle, "--set", empty)
    assert "holds no calibration set" in refused("calibrate", tiny_bundle, "--set", foreign)
    assert "holds no calibration set" in refused("calibrate", tiny_bundle, "--set", tmp_path / "no")
    assert "holds no ranges" in refused("calibrate", tiny_bundle, "--ranges", text)
    both = refused("calibrate", tiny_bundle, "--ranges", text, "--set", empty)
    assert "Leave out `--set`" in both


@pytest.mark.parametrize("package", ["onnx_ir", "onnx"])
def test_a_missing_package_names_the_extra_without_pytorch(toy: Path, package: str) -> None:
    blocked = f"import sys; sys.modules[{package!r}] = None; from pitstop.cli import main; main()"
    asked = [sys.executable, "-c", blocked, "calibrate", str(toy)]

    done = subprocess.run(asked, capture_output=True, text=True, check=False)

    assert done.returncode == 2, done.stderr
    [line] = without_stages(done.stderr)
    assert "pip install 'pitstop[calibrate]'" in line


def test_a_folder_that_is_no_bundle_is_told(tmp_path: Path) -> None:
    assert f"{tmp_path} is not a bundle" in refused("calibrate", tmp_path)


def test_a_denoiser_without_a_layer_to_quantize_is_told(toy: Path) -> None:
    assert "The denoiser has no layer to quantize." in refused("calibrate", toy)
