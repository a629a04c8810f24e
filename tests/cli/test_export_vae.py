"""``pitstop export --vae``, and what ``generate`` makes of its bundle without PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoint_helpers import tiny_checkpoint
from cli_helpers import refused, run, without_stages
from PIL import Image
from vae_helpers import change_config, save_kl

from pitstop.export.vae import add as vae_module

DEVICE = """
import sys
sys.modules.update(dict.fromkeys(["torch", "onnx", "onnx_ir", "diffusers", "safetensors"]))
from pitstop.cli import main
main(sys.argv[1:], prog_name="pitstop")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vae")
    tiny_checkpoint(folder / "latent.safetensors", channels=4)
    save_kl(folder / "vae")
    return folder


def test_a_bundle_with_a_decoder_is_exported_inspected_and_sampled_without_torch(
    folder: Path, tmp_path: Path
) -> None:
    figures, bundle = tmp_path / "figures.json", tmp_path / "bundle"

    done = run("export", folder / "latent.safetensors", "--out", bundle, "--precision", "fp16",
               "--vae", folder / "vae", "--vae-tile", 12, "--vae-batch", 2,
               "--json", figures)  # fmt: skip

    assert done.exit_code == 0, done.output
    written = json.loads(figures.read_text())["decoder_psnr_db"]
    assert written["decoder.fp32"] > 100.0 > written["decoder.fp16"] > 45.0
    assert "against PyTorch (at least 45)" in " ".join(done.output.split())
    inspected = " ".join(run("inspect", bundle).output.split())
    assert "latent float32 [2, 4, 12, 12]" in inspected
    assert "decoder.fp16 left 1: softmax" in inspected
    pictures = {}
    for precision in ("fp32", "fp16"):
        out = tmp_path / precision
        asked = ["generate", bundle, "--num", 3, "--steps", 2, "--precision", precision]
        device = subprocess.run(
            [sys.executable, "-c", DEVICE, *map(str, asked), "--out", str(out)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert device.returncode == 0, device.stderr
        names = sorted(path.name for path in out.glob("*.png"))
        assert names == ["000000-shirt.png", "000001-shoe.png", "000002-bag.png", "grid.png"]
        with Image.open(out / names[0]) as picture:
            assert (picture.size, picture.mode) == ((32, 32), "RGB")
            pictures[precision] = np.asarray(picture).astype(float)
    assert 0 < np.abs(pictures["fp32"] - pictures["fp16"]).mean() < 8


@pytest.mark.slow
def test_a_gate_that_is_not_met_ends_with_1_and_writes_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vae_module.LEAST_PSNR, "decoder.fp16", 1000.0)

    done = run("export", folder / "latent.safetensors", "--out", tmp_path / "bundle",
               "--vae", folder / "vae")  # fmt: skip

    assert done.exit_code == 1
    [line] = without_stages(done.stderr)
    assert "The ONNX graph decoder.fp16 does not match PyTorch: PSNR" in line
    assert "(at least 1000). Nothing was written" in line
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_vae_is_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    other = change_config(save_kl(tmp_path / "other"), _class_name="VQModel")
    export = ["export", folder / "latent.safetensors", "--out", tmp_path / "bundle", "--vae"]

    assert "is a VQModel. Name a VAE of one of" in refused(*export, other)
    assert "it has no config.json" in refused(*export, tmp_path / "nothing")
    assert "tile is 4" in refused(*export, folder / "vae", "--vae-tile", 4)
    assert "draws pixels" in refused("export", "fashion", *export[2:], folder / "vae")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other"]


def test_without_diffusers_the_message_names_the_extra(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    export = ["export", folder / "latent.safetensors", "--out", tmp_path / "bundle", "--vae"]

    assert "pip install 'pitstop[vae]'" in refused(*export, folder / "vae")
