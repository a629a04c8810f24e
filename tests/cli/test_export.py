"""``pitstop export --precision``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoint_helpers import tiny_checkpoint
from cli_helpers import refused, run, without_stages

from pitstop import CalibrationError
from pitstop.calibration import pipeline as calibration
from pitstop.export.lowering.lower import LOW
from pitstop.runtime.bundle.folder import open_bundle


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors")


def test_precisions_are_a_list_with_commas_in_any_order(checkpoint: Path, tmp_path: Path) -> None:
    figures, bundle = tmp_path / "figures.json", tmp_path / "bundle"

    done = run("export", checkpoint, "--out", bundle, "--precision", "bf16, fp16,fp16,fp32",
               "--json", figures)  # fmt: skip

    assert done.exit_code == 0, done.output
    written = json.loads(figures.read_text())
    errors = written["relative_l2_by_precision"]
    assert list(errors) == ["fp32", "fp16", "bf16"]
    assert errors["fp32"] == written["relative_l2"] < errors["fp16"] < errors["bf16"]
    assert "has no bf16 kernels" in " ".join(done.output.split())
    assert "has no fp16 kernels" not in " ".join(done.output.split())

    inspected = run("inspect", bundle)
    assert "denoiser.bf16" in inspected.output
    assert "fp16 left 2: softmax: " in inspected.output
    assert "fuse_attention, in a block: Transpose " in inspected.output

    refused = run("compare", bundle, "--precision", "bf16", "--backend", "onnxruntime")
    assert refused.exit_code == 2
    [line] = without_stages(refused.stderr)
    assert "no kernel for" in line
    assert "`--precision`" in line


@pytest.mark.parametrize("asked", ["fp12", "fp16,", "", "fp16 bf16"])
def test_an_unknown_precision_is_named_with_the_known_ones(
    checkpoint: Path, tmp_path: Path, asked: str
) -> None:
    done = run("export", checkpoint, "--out", tmp_path / "bundle", "--precision", asked)

    assert done.exit_code == 2
    [line] = without_stages(done.stderr)
    assert "There is no precision called" in line
    assert "fp32, fp16, bf16" in line
    assert list(tmp_path.iterdir()) == []


def test_a_precision_that_the_target_has_no_kernels_for_is_refused(
    checkpoint: Path, tmp_path: Path
) -> None:
    line = refused("export", checkpoint, "--out", tmp_path / "bundle", "--target", "onnxruntime",
                   "--precision", "fp16,bf16")  # fmt: skip

    assert line == (
        "pitstop: The target onnxruntime has no kernels for bf16. Choose `--precision` among "
        "fp32, fp16, or another `--target`."
    )
    assert list(tmp_path.iterdir()) == []


def test_a_precision_beyond_its_tolerance_writes_nothing_and_ends_with_1(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOW, "fp16", dataclasses.replace(LOW["fp16"], tolerance=1e-9))

    done = run("export", checkpoint, "--out", tmp_path / "bundle", "--precision", "fp16,bf16")

    assert done.exit_code == 1
    [line] = without_stages(done.stderr)
    assert "The ONNX graph in fp16 does not match PyTorch" in line
    assert "at most 1e-09" in line
    assert "Nothing was written; leave fp16 out of `--precision`" in line
    assert list(tmp_path.iterdir()) == []


def test_int8_is_added_by_a_calibration(checkpoint: Path, tmp_path: Path) -> None:
    figures, bundle = tmp_path / "figures.json", tmp_path / "bundle"

    done = run("export", checkpoint, "--out", bundle, "--precision", "int8", "--json", figures)

    assert done.exit_code == 0, done.output
    assert (bundle / "graphs" / "denoiser.int8.onnx").exists()
    errors = json.loads(figures.read_text())["relative_l2_by_precision"]
    assert 1e-5 < errors["int8"] < 1


def test_a_bundle_can_be_exported_again_from_inside_its_folder(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle"
    assert run("export", checkpoint, "--out", bundle).exit_code == 0
    monkeypatch.chdir(bundle)

    done = run("export", checkpoint, "--out", ".", "--precision", "int8", "--json", "../e.json")

    assert done.exit_code == 0, done.output
    assert "int8" in open_bundle(bundle).manifest.precisions
    assert (tmp_path / "e.json").is_file()


def fails_with(error: BaseException) -> Callable[..., None]:
    def stop(*arguments: object, **keywords: object) -> None:
        raise error

    return stop


def test_a_calibration_that_fails_says_that_the_rest_was_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loud = CalibrationError("fc2 reads values up to 70000", "Use `--base fp32`")
    monkeypatch.setattr(calibration, "calibrate_bundle", fails_with(loud))
    bundle = tmp_path / "bundle"

    line = refused("export", checkpoint, "--out", bundle, "--precision", "int8")

    assert line == (
        f"pitstop: {bundle} was written without int8: fc2 reads values up to 70000. Add it with "
        f"`pitstop calibrate {bundle}`: use `--base fp32`."
    )
    assert open_bundle(bundle).manifest.precisions == ["fp32"]


def test_a_calibration_that_is_stopped_says_so_too(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "calibrate_bundle", fails_with(KeyboardInterrupt()))
    bundle = tmp_path / "bundle"

    done = run("export", checkpoint, "--out", bundle, "--precision", "int8")

    assert done.exit_code == 1
    told = f"{bundle} was written without int8; add it with `pitstop calibrate {bundle}`."
    assert told in " ".join(done.stderr.split())
    assert open_bundle(bundle).manifest.precisions == ["fp32"]


def test_what_is_said_of_the_schedule_is_in_the_bundle_and_inspect_shows_it(
    checkpoint: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"

    done = run("export", checkpoint, "--out", bundle, "--prediction", "v_prediction",
               "--betas", "scaled_linear:0.001:0.01:500")  # fmt: skip

    assert done.exit_code == 0, done.output
    shown = run("inspect", bundle).output
    assert "v_prediction" in shown
    assert "500 timesteps, betas scaled_linear 0.001 to 0.01" in shown


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("--prediction", "flow"), "Choose one of: epsilon, v_prediction, sample"),
        (("--betas", "linear:2"), "Choose a start and an end in (0, 1)"),
        (("--shift", "3"), "`--shift 3` is for a flow"),
    ],
)
def test_what_cannot_be_said_of_the_schedule_is_refused(
    checkpoint: Path, tmp_path: Path, options: tuple[str, ...], found: str
) -> None:
    done = run("export", checkpoint, "--out", tmp_path / "bundle", *options)

    assert done.exit_code == 2
    [line] = without_stages(done.stderr)
    assert found in line
    assert not (tmp_path / "bundle").exists()
