"""``pitstop bench`` as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bundle_helpers import toy_manifest, with_decoder, write_bundle
from checkpoint_helpers import tiny_checkpoint
from cli_helpers import refused, run, without_stages

from pitstop.runtime.backends import import_backend

FEW = ("--steps", 2, "--rounds", 1, "--threads", 1)
ALONE = (*FEW, "--backend", "onnxruntime")
ROW = {
    "name", "bundle", "checkpoint", "backend", "device", "precision", "threads", "batch", "calls",
    "cfg_interval", "images_together", "ms_per_call_median", "ms_per_call_p10", "ms_per_call_p90",
    "ms_per_step_median", "ms_per_step_p10", "ms_per_step_p90", "ms_per_image_median",
    "ms_per_image_p10", "ms_per_image_p90", "images_per_second", "conditioner_ms_median",
    "loop_ms_median", "decoder_ms_median", "loop_overhead_share", "load_seconds",
    "peak_memory_bytes", "device_memory_bytes", "flops_per_call", "flops_per_second",
    "matmul_peak_share", "speedup_over_torch",
}  # fmt: skip
TEXTS = {"name", "bundle", "checkpoint", "backend", "device", "precision"}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("toy") / "toy", toy_manifest(split=True))


def test_a_table_figures_and_a_plot_come_of_it(tiny_bundle: Path, tmp_path: Path) -> None:
    done = run("bench", tiny_bundle, *ALONE, "--json", tmp_path / "figures.json",
               "--plot", tmp_path / "plot.png")  # fmt: skip

    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures.keys() == {
        "rows", "steps", "rounds", "matmul_flops_per_second", "warnings", "not_measured", "machine",
    }  # fmt: skip
    assert [row["precision"] for row in figures["rows"]] == ["fp32", "fp16"]
    for row in figures["rows"]:
        assert row.keys() == ROW
        assert row["name"] in done.output
        absent = {name for name, value in row.items() if value is None}
        assert absent == {
            "cfg_interval", "checkpoint", "decoder_ms_median", "device_memory_bytes",
            "speedup_over_torch",
        }  # fmt: skip
        assert all(row[name] > 0 for name in ROW - TEXTS - absent)
    assert figures["matmul_flops_per_second"]
    assert "tiny is no preset" in figures["not_measured"][0]
    assert "peak: matmuls at " in done.output
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_a_noisy_machine_is_said(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "pitstop.evaluation.speed.machine_noise.MAX_SPREAD", 0.5
    )  # no series is so even

    done = run("bench", toy, *ALONE, "--precision", "fp32")

    assert done.exit_code == 0
    assert "warning: this machine is noisy: " in done.output
    assert "the calls of 1 of 1 rows are uneven" in " ".join(done.output.split())


def test_a_decoder_has_a_time_of_its_own(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "toy", with_decoder(toy_manifest(split=True)))

    done = run("bench", folder, *ALONE, "--json", tmp_path / "figures.json")

    assert done.exit_code == 0, done.output
    [row] = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert row["decoder_ms_median"] > 0
    assert row["matmul_peak_share"] is None  # the toy has no sizes


def test_options_repeat_and_take_lists(tiny_bundle: Path, tmp_path: Path) -> None:
    if import_backend("openvino").why_not():
        pytest.skip("needs two backends")

    one_by_one = ("--precision", "fp32", "--precision", "fp16")
    listed = ("--backend", "onnxruntime,openvino")
    done = run("bench", tiny_bundle, *FEW, "--no-torch", *one_by_one, *listed,
               "--json", tmp_path / "f.json")  # fmt: skip

    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "f.json").read_text())
    assert [row["name"] for row in figures["rows"]] == [
        "fp32, onnxruntime", "fp16, onnxruntime", "fp32, openvino", "fp16, openvino",
    ]  # fmt: skip
    assert figures["not_measured"] == []


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--precision", "int8"], "This bundle has no int8 denoiser. Choose one of: fp32"),
        (["--backend", "abacus"], "There is no backend called 'abacus'. Choose one of: auto"),
        (["--provider", "Abacus", "--backend", "auto"], "This ONNX Runtime has no Abacus"),
        (["--torch"], "Name its file with `--checkpoint`"),
        (["--no-torch", "--checkpoint", "fashion"], "Leave out `--checkpoint` or `--no-torch`"),
        (["--checkpoint", "pit-s-3"], "There is no checkpoint or preset called 'pit-s-3'"),
        (["--plot", "plot.bmp"], "End the name with one of: .png, .svg, .pdf"),
        (["--steps", "1001"], "1 to 1000"),
        (["--calls", "11"], "11 calls were asked for in 10 steps"),
        (["--cfg-interval", "0.2:0.7"], "holds no step of the run, which visits 0 to 900"),
    ],
)
def test_what_is_not_to_be_had_is_refused_in_one_line(
    toy: Path, options: list[str], found: str
) -> None:
    assert found in refused("bench", toy, *options)


def test_an_interval_of_a_model_without_guidance_is_refused_with_what_bench_has(
    tmp_path: Path,
) -> None:
    plain = write_bundle(tmp_path / "plain", toy_manifest(null_class=False))
    told = refused("bench", plain, "--cfg-interval", "0:400")
    assert f"The model of {plain} was trained without label dropout" in told
    assert "Leave out `--cfg-interval`, or that bundle" in told


@pytest.mark.parametrize("option", ["--plot", "--json"])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, option: str
) -> None:
    line = refused("bench", tmp_path / "nothing", option, tmp_path / "gone" / "file.png")

    assert "is no folder that can be written to" in line
    assert f"`{option}`" in line


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    assert "is not a bundle" in refused("bench", tmp_path)


def test_a_checkpoint_of_another_model_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    other = tiny_checkpoint(tmp_path / "other.safetensors", hidden_size=48)

    line = refused("bench", tiny_bundle, *ALONE, "--checkpoint", other)

    assert "hidden_size 48" in line


@pytest.mark.parametrize("option", ["--steps", "--rounds"])
def test_too_few_to_count_is_refused(toy: Path, option: str) -> None:
    done = run("bench", toy, option, 0)

    assert done.exit_code == 2
    assert option in done.stderr


@pytest.mark.parametrize("library", ["torch", "matplotlib"])
def test_a_library_that_was_asked_for_but_is_missing_is_named(toy: Path, library: str) -> None:
    options = {"torch": ["--checkpoint", "fashion"], "matplotlib": ["--plot", "plot.png"]}[library]
    code = (
        f"import sys; sys.modules[{library!r}] = None; from pitstop.cli import main; "
        "main(sys.argv[1:], prog_name='pitstop')"
    )

    asked = [sys.executable, "-c", code, "bench", str(toy), *options]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    [line] = without_stages(done.stderr)
    assert f"{library}" in line
    assert "pip install 'pitstop[" in line


@pytest.mark.slow
def test_without_a_compiler_pytorch_runs_eagerly(tiny_bundle: Path, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "tiny.safetensors")
    code = "from pitstop.cli import main; main(prog_name='pitstop')"
    asked = [sys.executable, "-c", code, "bench", tiny_bundle, *ALONE, "--precision", "fp32",
             "--checkpoint", checkpoint, "--json", tmp_path / "f.json"]  # fmt: skip
    nowhere = {"CXX": "/bin/false", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}

    done = subprocess.run(
        list(map(str, asked)), env={**os.environ, **nowhere}, capture_output=True, check=False
    )

    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "f.json").read_text())
    assert [row["name"] for row in figures["rows"]] == [
        "fp32, torch eager", "bf16, torch eager", "fp32, onnxruntime",
    ]  # fmt: skip
    assert [reason.split(":")[0] for reason in figures["not_measured"]] == [
        "fp32, torch compile", "bf16, torch compile",
    ]  # fmt: skip
    assert "No working C++ compiler" in figures["not_measured"][0]


def test_a_guidance_interval_has_a_row_beside_that_of_all_steps(toy: Path, tmp_path: Path) -> None:
    done = run("bench", toy, *ALONE, "--cfg-interval", "0:0", "--json", tmp_path / "figures.json")

    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert [(row["cfg_interval"], row["images_together"]) for row in rows] == [
        (None, 1),
        ("0:0", 2),
    ]
    assert rows[1]["name"] == "fp32, onnxruntime, guided 0:0"
