from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_helpers import one_line
from checkpoint_helpers import tiny_checkpoint
from format_helpers import HEADS, dit_weights

from pitstop import CheckpointError
from pitstop.evaluation.accuracy.reference import live_goldens, load_model, open_reference
from pitstop.export.trace import Hints, load_source, manifest_for
from pitstop.runtime.bundle.manifest import Manifest
from pitstop.runtime.sampling.settings import Settings


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"))


def manifest_of(checkpoint: str, image_size: int | None = None) -> Manifest:
    return manifest_for(load_source(checkpoint, image_size), "tiny", batch=2)


def test_live_goldens_are_as_many_as_were_asked_for(checkpoint: str) -> None:
    moved: list[int] = []

    goldens = live_goldens(
        checkpoint, manifest_of(checkpoint), Settings(steps=3), 5, on_step=moved.append
    )

    assert goldens.trajectory.shape == (3, 5, 1, 16, 16)
    assert goldens.told["label"].tolist() == [0, 1, 2, 0, 1]
    assert sum(moved) == 15


def test_a_checkpoint_is_brought_to_the_size_of_the_bundle(checkpoint: str) -> None:
    reference = open_reference(checkpoint, manifest_of(checkpoint, 24))

    answer = reference.predict(
        np.zeros((2, 1, 24, 24), np.float32), 500, {"label": np.array([0, 3])}
    )
    assert answer.shape == (2, 1, 24, 24)


def test_a_config_read_back_from_json_is_the_same(checkpoint: str) -> None:
    manifest = manifest_of(checkpoint)
    config = {**manifest.model.config, "input_size": [16, 16]}
    model = dataclasses.replace(manifest.model, config=config)

    open_reference(checkpoint, dataclasses.replace(manifest, model=model))


def test_another_model_is_refused_with_both_values(checkpoint: str, tmp_path: Path) -> None:
    other = tiny_checkpoint(tmp_path / "other.safetensors", hidden_size=64)

    with pytest.raises(CheckpointError) as caught:
        open_reference(str(other), manifest_of(checkpoint))

    message = one_line(caught.value)
    assert "hidden_size 64" in message
    assert "hidden_size 32" in message


@pytest.mark.parametrize("name", [None, "model"])
def test_the_weights_are_those_that_the_bundle_was_exported_from(
    name: str | None, tmp_path: Path
) -> None:
    path, hints = tmp_path / "a.pt", Hints(num_heads=HEADS.num_heads, weights=name)
    torch.save({"ema": dit_weights(), "model": dit_weights(seed=1)}, path)
    exported = load_source(str(path), hints=hints)

    found = load_model(str(path), manifest_for(exported, "a", batch=2))

    key = "blocks.0.attn.qkv.weight"
    assert torch.equal(found.state_dict()[key], exported.model.state_dict()[key])
    assert torch.equal(found.state_dict()[key], dit_weights(seed=1 if name else 0)[key])
