"""What `generate` says beside its pictures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from bundle_helpers import toy_manifest, write_bundle
from cli_helpers import refused, run

from pitstop.runtime.bundle.folder import open_bundle, write_manifest
from pitstop.runtime.bundle.manifest import PassReport
from pitstop.runtime.image import read_parameters
from pitstop.runtime.machine import cpu

FEW = ("--num", "1", "--steps", "2", "--backend", "onnxruntime")


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A bundle that calls its graph int8 too."""
    folder = write_bundle(tmp_path / "toy", toy_manifest())
    manifest = open_bundle(folder).manifest
    graphs = {**manifest.graphs, "denoiser.int8": manifest.graphs["denoiser.fp32"]}
    (folder / "manifest.json").unlink()
    write_manifest(folder, dataclasses.replace(manifest, graphs=graphs))
    return folder


@pytest.mark.parametrize(
    ("features", "precision", "bits", "noted"),
    [
        ("avx2", "int8", None, True),
        ("avx2", "int8", 8, True),
        ("avx2", "int8", 7, False),
        ("avx2", "fp32", 7, False),
        ("avx2 avx512f avx512_vnni", "int8", 8, False),
    ],
)
def test_int8_is_noted_where_the_cpu_cuts_its_sums_off(
    toy: Path,
    monkeypatch: pytest.MonkeyPatch,
    features: str,
    precision: str,
    bits: int | None,
    noted: bool,
) -> None:
    calibrated_with(toy, bits)
    told = toy.parent / "cpuinfo"
    told.write_text(f"flags : {features}")
    monkeypatch.setattr(cpu, "CPUINFO", told)

    done = run("generate", toy, "--out", toy.parent / "out", "--precision", precision, *FEW)

    assert done.exit_code == 0, done.output
    said = " ".join(done.stderr.split())
    assert ("note: int8 is not exact here: this CPU has neither VNNI nor AMX" in said) is noted
    assert ("`pitstop calibrate --weight-bits 7`" in said) is noted


def calibrated_with(folder: Path, bits: int | None) -> None:
    """Let a manifest say how many bits its int8 weights have."""
    manifest = open_bundle(folder).manifest
    done = PassReport("int8", {}, {}, 4, 1, (), {}, 0.01, weight_bits=bits)
    (folder / "manifest.json").unlink()
    write_manifest(folder, dataclasses.replace(manifest, passes=(done,)))


@pytest.mark.parametrize("spacing", ["trailing", "official"])
def test_a_spacing_draws_other_images_and_is_in_their_parameters(toy: Path, spacing: str) -> None:
    out = {name: toy.parent / name for name in ("auto", spacing)}
    for name, folder in out.items():
        done = run("generate", toy, "--out", folder, "--spacing", name, *FEW)
        assert done.exit_code == 0, done.output

    plain, spaced = (next(folder.glob("0*.png")) for folder in out.values())
    assert read_parameters(spaced)["spacing"] == spacing
    assert plain.read_bytes() != spaced.read_bytes()


def test_a_folder_of_other_options_is_refused_in_one_line_and_overwritten_where_asked(
    toy: Path,
) -> None:
    asked = ("generate", toy, "--out", toy.parent / "out", "--num", "1", "--backend", "onnxruntime")
    run(*asked, "--steps", "2")

    line = refused(*asked, "--steps", "3")
    anew = run(*asked, "--steps", "3", "--overwrite")
    again = run(*asked, "--steps", "3", "--strict")

    assert "was drawn with steps 2, this run has steps 3" in line
    assert "`--overwrite`" in line
    assert "1 drawn, 0 kept" in anew.stdout
    assert "0 drawn, 1 kept" in again.stdout


@pytest.mark.parametrize(("features", "told"), [("avx2 avx_vnni", True), ("avx2", False)])
def test_a_precision_that_is_faster_on_this_cpu_is_told(
    toy: Path, monkeypatch: pytest.MonkeyPatch, features: str, told: bool
) -> None:
    path = toy.parent / "cpuinfo"
    path.write_text(f"flags : {features}")
    monkeypatch.setattr(cpu, "CPUINFO", path)

    done = run("generate", toy, "--out", toy.parent / "out", "--precision", "fp32", *FEW)

    assert ("`--precision int8` on this CPU" in done.stdout) is told
    assert "fastest here" in run("inspect", toy).stdout


def test_that_no_forecast_was_fitted_is_said_before_anything_is_drawn(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*asked: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pitstop.runtime.jobs.draw_images", stopped)

    done = run("generate", toy, *FEW, "--steps", 5, "--calls", 4, "--out", tmp_path / "out")

    assert done.exit_code != 0
    assert "note: no forecast was fitted for ddim, 5 steps" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--cfg-interval", "0:600", "cfg_interval 0.0:600.0"),
        ("--cfg-interval", "sigma:0:5", "cfg_interval sigma:0.0:5.0"),
        ("--cfg-schedule", "power-cosine", "cfg_schedule power-cosine:4.0"),
        ("--cfg-channels", "all", "cfg_channels all"),
    ],
)
def test_a_folder_of_other_guidance_is_refused_by_its_name(
    toy: Path, option: str, value: str, said: str
) -> None:
    out = toy.parent / "out"
    assert run("generate", toy, "--out", out, *FEW, option, value).exit_code == 0
    [picture] = out.glob("0*.png")
    name = option[2:].replace("-", "_")
    assert f"{name} {read_parameters(picture)[name]}" == said

    assert name in refused("generate", toy, "--out", out, *FEW)
    again = run("generate", toy, "--out", out, *FEW, option, value)
    assert "0 drawn, 1 kept" in again.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--cfg-interval", "0.2:0.7"), "holds no step of the run"),
        (("--cfg-channels", "5"), "a latent has 1"),
        (("--shift", "3"), "is for a flow"),
        (("--cfg-scale", "1", "--cfg-schedule", "linear"), "is no guidance"),
        (("--noise", "numpy"), "The noise is"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_folder_is_made(
    toy: Path, options: tuple[str, ...], said: str
) -> None:
    out = toy.parent / "out"
    assert said in refused("generate", toy, "--out", out, *FEW, *options)
    assert not out.exists()
