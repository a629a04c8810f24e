"""``pitstop inspect`` and ``export`` on other people's checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli_helpers import refused, run
from edt_helpers import edt_weights
from format_helpers import dit_weights, repa_weights, write_diffusers, write_dit, write_training

HEADS = ("--heads", "4")
SCREEN = 24  # lines


def diffusers_folder(folder: Path) -> Path:
    write_diffusers(folder / "transformer")
    return folder / "transformer"


def told(*arguments: object) -> str:
    """What a command prints, without the breaks of its lines."""
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    assert len(done.output.splitlines()) <= SCREEN
    return " ".join(done.output.split())


@pytest.mark.parametrize(
    ("write", "options", "lines"),
    [
        (
            lambda folder: write_dit(folder / "a.pt"),
            HEADS,
            [
                "a file of official DiT",
                "CC-BY-NC 4.0: not for commercial use",
                "the noise and its variance",
                "1000 timesteps, betas linear 0.0001 to 0.02",
                "on 3 of 4 channels",
                "say `--format sit`",
                "pitstop export {path} --heads 4 --out BUNDLE",
            ],
        ),
        (
            lambda folder: write_dit(folder / "a b.pt"),
            ("--format", "sit", *HEADS, "--classes", "3"),
            [
                "a file of SiT",
                "under MIT",
                "the straight line from noise to data, the data at 1",
                "pitstop export '{path}' --format sit --heads 4 --classes 3 --out BUNDLE",
            ],
        ),
        (
            lambda folder: write_training(folder / "last.pt", repa_weights()),
            HEADS,
            [
                "a file of REPA",
                "the straight line from noise to data, the data at 0",
                "on 4 of 4 channels",
                "not read: model, opt",
                "6 tensors left out: the projectors",
            ],
        ),
        (
            lambda folder: write_dit(folder / "dit.pt", edt_weights()),
            ("--amm", "1,3"),
            [
                "a file of official EDT",
                "of the weights no licence is known",
                "on 3 of 4 channels",
                "of the attention (AMM): in blocks 1, 3; `--amm` changes it",
                "stage_depths=(1, 1, 1, 1, 2)",
                "pitstop export {path} --amm 1,3 --out BUNDLE",
            ],
        ),
        (
            diffusers_folder,
            (),
            [
                "a file of diffusers' DiTTransformer2DModel",
                "CC-BY-NC 4.0",
                "on 4 of 4 channels",
                "timestep_divisor=127 mlp_norm_eps=0.001",
                "10 tensors left out: copies of the embedders",
                "pitstop export {path} --out BUNDLE",
            ],
        ),
    ],
    ids=["dit", "sit", "repa", "edt", "diffusers"],
)
def test_a_screen_says_what_a_checkpoint_is(
    write: Callable[[Path], Path], options: tuple[str, ...], lines: list[str], tmp_path: Path
) -> None:
    path = write(tmp_path)

    output = told("inspect", path, *options)

    for line in lines:
        wanted = line.format(path=path)
        assert wanted.replace(" ", "") in output.replace(" ", "")  # a long path is broken anywhere


def test_the_figures_have_the_format_and_the_licence(tmp_path: Path) -> None:
    path, figures = write_dit(tmp_path / "a.pt"), tmp_path / "figures.json"

    run("inspect", path, *HEADS, "--json", figures)

    written = json.loads(figures.read_text())
    assert written["format"] == "dit"
    assert "CC-BY-NC" in written["licence"]
    assert any("--format sit" in note for note in written["notes"])


def test_an_export_says_what_a_user_should_know(tmp_path: Path) -> None:
    path = write_dit(tmp_path / "a.pt")
    done = run("export", path, *HEADS, "--out", tmp_path / "bundle")
    assert done.exit_code == 0, done.output
    assert "--format sit" in " ".join(done.output.split())


def test_a_flow_is_sampled_without_being_told_so(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    run("export", write_training(tmp_path / "a.pt", repa_weights()), *HEADS, "--out", bundle)

    drawn = run("generate", bundle, "--num", 1, "--steps", 3, "--out", tmp_path / "drawn")
    assert drawn.exit_code == 0, drawn.output

    line = refused("generate", bundle, "--sampler", "ddim", "--out", tmp_path / "other")
    assert "which predicts a velocity" in line
    assert "euler, heun" in line


@pytest.mark.parametrize("command", ["inspect", "export"])
def test_bad_input_is_one_line_and_exit_2(command: str, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "bundle") if command == "export" else ()
    path = write_dit(tmp_path / "a.pt")
    assert "`--heads N`" in refused(command, path, *out)
    assert "Choose one of: " in refused(command, path, "--format", "dti", *out)

    weights = dit_weights()
    del weights["pos_embed"]
    assert "lacks pos_embed" in refused(command, write_dit(path, weights), *HEADS, *out)
    text = {"caption_projection.linear_1.weight": torch.zeros(2, 2)}
    assert "text-to-image" in refused(command, write_dit(path, text), *out)
    path.write_bytes(path.read_bytes()[:500])
    assert "is not a whole PyTorch file" in refused(command, path, *out)
    assert not (tmp_path / "bundle").exists()


def test_a_file_with_two_sets_says_how_to_read_the_other(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"ema": dit_weights(), "model": dit_weights(seed=1)}, path)
    assert "`--weights model` reads others" in told("inspect", path, *HEADS)
    command = f"pitstop export {path} --heads 4 --weights model --out BUNDLE"
    assert command in told("inspect", path, *HEADS, "--weights", "model")
    assert "found: ema, model" in refused("inspect", path, *HEADS, "--weights", "emma")


def test_a_variant_of_a_folder_stands_in_the_export_command(tmp_path: Path) -> None:
    write_diffusers(tmp_path, variant="bf16")
    assert "`--variant bf16`" in refused("inspect", tmp_path)
    command = f"pitstop export {tmp_path} --variant bf16 --out BUNDLE"
    assert command in told("inspect", tmp_path, "--variant", "bf16")


def test_a_preset_has_no_sets_of_weights() -> None:
    assert "Leave `--weights` and `--variant` out" in refused(
        "inspect", "fashion", "--weights", "ema"
    )
