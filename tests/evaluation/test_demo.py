from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from checkpoint_helpers import tiny_checkpoint
from cli_helpers import without_stages
from click.testing import CliRunner
from PIL import Image
from stage_helpers import Heard

from pitstop.cli import main
from pitstop.evaluation import demo
from pitstop.evaluation.accuracy.quality import Judgement
from pitstop.evaluation.report.picture import CELL, GAP, LINE, MARGIN, Strip
from pitstop.runtime.bundle.precision import PRECISIONS
from pitstop.runtime.sampling.sampler import Latent
from pitstop.runtime.sampling.settings import Settings


def see_the_first_class(pixels: Latent) -> Judgement:
    return Judgement(np.zeros(len(pixels), dtype=np.int64), np.zeros((len(pixels), 2)))


def hold_to(monkeypatch: pytest.MonkeyPatch, **gates: float) -> None:
    """Ask of the median image in each precision so many dB."""
    for name, gate in gates.items():
        held = dataclasses.replace(PRECISIONS[name], min_psnr_db=gate)
        monkeypatch.setitem(PRECISIONS, name, held)


@pytest.fixture(autouse=True)
def small(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo of a tiny model: six images in four steps, judged without a classifier."""
    folder = tmp_path_factory.mktemp("checkpoint")
    monkeypatch.setattr(demo, "SOURCE", str(tiny_checkpoint(folder / "tiny.safetensors")))
    monkeypatch.setattr(demo, "BATCH", 4)
    monkeypatch.setattr(demo, "WHOLE", demo.Size(6, ("fp32", "fp16"), 2))
    monkeypatch.setattr(demo, "QUICK", demo.Size(4, ("fp32",), 1))
    monkeypatch.setattr(demo, "COLUMNS", 3)
    # Random weights amplify what rounding does.
    hold_to(monkeypatch, fp32=60.0, fp16=40.0, int8=0.0)
    monkeypatch.setattr(demo, "SETTINGS", Settings(steps=4, cfg_scale=2.0))
    monkeypatch.setattr(demo, "judge", see_the_first_class)


def test_the_demo_writes_its_figures_and_a_picture(tmp_path: Path) -> None:
    out, figures = tmp_path / "out", tmp_path / "figures.json"

    done = CliRunner().invoke(main, ["demo", "--out", str(out), "--json", str(figures)])

    assert done.exit_code == 0, done.output
    written = json.loads(figures.read_text())
    assert {"rows", "picture"} <= set(written)
    for row in written["rows"]:
        keys = "precision bytes ms_per_step relative_l2_max psnr_db_median class_agreement"
        assert set(keys.split()) <= set(row)
        assert row["class_agreement"] == pytest.approx(2 / 6)
        assert row["ms_per_step"] > 0
    assert [row["precision"] for row in written["rows"]] == ["fp32", "fp16", "int8"]
    sizes = [row["bytes"] for row in written["rows"]]
    assert sizes == sorted(sizes, reverse=True)
    assert written["rows"][0]["relative_l2_max"] <= 1e-5
    with Image.open(written["picture"]) as picture:
        side = 16 * (CELL // 16)
        strips = 1 + 2 * 3  # PyTorch, and each precision with its difference
        lines = strips + 1 + 4  # titles, the classes, and what is under PyTorch and differences
        assert picture.size == (
            2 * MARGIN + 3 * side + 2 * GAP,
            2 * MARGIN + strips * (side + GAP) + lines * LINE,
        )
    assert done.stdout.startswith("Exports the shipped model")
    assert all(f"ONNX {name}" in done.output for name in ("fp32", "fp16", "int8"))


def test_a_gate_that_is_not_met_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold_to(monkeypatch, fp32=1e3, fp16=0.0, int8=0.0)

    done = CliRunner().invoke(main, ["demo", "--out", str(tmp_path / "out")])

    assert done.exit_code == 1
    assert (tmp_path / "out" / "images.png").exists()


def test_the_quick_demo_is_smaller_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"

    done = CliRunner().invoke(
        main, ["demo", "--quick", "--out", str(tmp_path / "out"), "--json", str(figures)]
    )

    assert done.exit_code == 0, done.output
    rows = json.loads(figures.read_text())["rows"]
    assert [row["precision"] for row in rows] == ["fp32", "int8"]
    assert "draws 4 images with PyTorch and in fp32, int8" in " ".join(done.stdout.split())
    assert "left out: fp16" in " ".join(done.stdout.split())


def test_the_difference_is_drawn_on_the_scale_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Strip] = []
    monkeypatch.setattr(
        demo, "stacked", lambda names, strips: drawn.extend(strips) or toy_picture()
    )

    demo.run_demo(tmp_path / "out", demo.QUICK)

    pytorch, *_, int8, apart = drawn
    assert apart.title == "int8 from PyTorch: difference x 32; white is 1/32 of the range, or more"
    assert "dB PSNR, the median of 4 images" in apart.under[0]
    for expected, found, difference in zip(pytorch.images, int8.images, apart.images, strict=True):
        levels = np.asarray(found, dtype=np.float64) - np.asarray(expected)
        wanted = np.clip(demo.GAIN * np.abs(levels), 0, 255)
        assert np.abs(np.asarray(difference) - wanted).max() <= demo.GAIN + 1  # of rounded levels


def toy_picture() -> Image.Image:
    return Image.new("L", (1, 1))


def test_the_demo_tells_of_every_step_that_it_draws(tmp_path: Path) -> None:
    heard = Heard()

    demo.run_demo(tmp_path / "out", demo.WHOLE, on_stage=heard)

    counted = [
        (what, steps)
        for what, steps in zip(heard.stages, heard.all_steps, strict=True)
        if what.startswith("drawing")
    ]
    assert counted == [
        ("drawing 2 trajectories", 2 * 4),
        ("drawing 1 trajectory more, to check the ranges", 4),
        ("drawing 6 images with PyTorch", 6 * 4),
        *(
            (f"drawing 6 images with ONNX Runtime, {name}", 6 * 4)
            for name in ("fp32", "fp16", "int8")
        ),
    ]
    assert heard.moved == heard.all_steps


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("pitstop.export.pipeline.FP32_TOLERANCE", "The exported graph is"),
        ("pitstop.export.optimize.SPLIT_TOLERANCE", "The split changed the graph's output"),
    ],
)
def test_an_export_that_left_pytorch_ends_the_demo_with_1_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, message: str
) -> None:
    monkeypatch.setattr(place, -1.0)

    done = CliRunner().invoke(main, ["demo", "--out", str(tmp_path / "out")])

    assert done.exit_code == 1
    [line] = without_stages(done.stderr)
    assert line.startswith("pitstop: ")
    assert message in line
    assert not (tmp_path / "out" / "bundle").exists()
