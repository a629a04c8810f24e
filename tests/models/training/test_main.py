from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from idx_helpers import write_part
from model_helpers import call, tiny_pit

from pitstop import CheckpointError
from pitstop.models.checkpoint import load_checkpoint, load_classifier
from pitstop.models.training import __main__ as training
from pitstop.models.training.fashion_mnist import CLASSES

CONFIG = tiny_pit(
    input_size=(32, 32), in_channels=1, cfg_channels=1, depth=1, num_classes=10, learn_sigma=False
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of 256 images in ``data``, and a model small enough to be trained on it."""
    monkeypatch.setattr(training, "FASHION", CONFIG)
    (tmp_path / "data").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (256, 28, 28))
    for part in ("train", "t10k"):
        write_part(tmp_path / "data", part, pixels, np.arange(256) % 10)
    return tmp_path


def run(command: str, folder: Path, *options: str) -> Result:
    arguments = [command, "--data", str(folder / "data"), "--out", str(folder / "out"), *options]
    return CliRunner().invoke(training.main, arguments, catch_exceptions=False)


def test_the_denoiser_is_trained_and_written_with_its_labels(folder: Path) -> None:
    assert run("denoiser", folder, "--steps", "2").exit_code == 0

    found = load_checkpoint(folder / "out" / "fashion.safetensors")
    assert found.config == CONFIG
    assert found.labels == CLASSES
    assert found.provenance == "trained on Fashion-MNIST, 2 steps, EMA"


def test_the_same_command_again_goes_on_where_it_was(folder: Path) -> None:
    run("denoiser", folder, "--steps", "2")
    first = load_checkpoint(folder / "out" / "fashion.safetensors").model
    run("denoiser", folder, "--steps", "2")
    again = load_checkpoint(folder / "out" / "fashion.safetensors").model
    run("denoiser", folder, "--steps", "3")
    further = load_checkpoint(folder / "out" / "fashion.safetensors").model

    assert torch.equal(call(first), call(again))
    assert not torch.equal(call(first), call(further))


def test_a_state_of_another_model_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("denoiser", folder, "--steps", "1")
    monkeypatch.setattr(training, "FASHION", replace(CONFIG, depth=2))
    with pytest.raises(CheckpointError, match="holds another model"):
        run("denoiser", folder, "--steps", "2")


def test_the_classifier_is_trained_and_its_accuracy_printed(folder: Path) -> None:
    done = run("classifier", folder, "--epochs", "1")
    assert "test accuracy 0." in done.output
    assert (
        load_classifier(folder / "out" / "fashion-classifier.safetensors").head.out_features == 10
    )


def test_a_missing_data_set_is_said_before_any_training(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(CheckpointError, match="Install the Debian package"):
        run("denoiser", tmp_path)
