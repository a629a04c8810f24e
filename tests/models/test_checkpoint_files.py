"""Folders of diffusers with variants of their weights, and files inside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from format_helpers import refusal, write_diffusers, write_dit

from pitstop import CheckpointError
from pitstop.models.checkpoint import load_checkpoint
from pitstop.models.checkpoint_files import shards_of
from pitstop.models.format import Hints

SHARDED: list[dict[str, Any]] = [{}, {"max_shard_size": "100KB"}, {"safe_serialization": False}]


@pytest.fixture(params=SHARDED, ids=str)
def only_bf16(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder whose weights are there in bf16 alone."""
    model = write_diffusers(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    model.bfloat16().save_pretrained(tmp_path, variant="bf16", **request.param)
    return tmp_path


def test_another_variant_alone_is_named_and_taken_where_it_is_asked_for(only_bf16: Path) -> None:
    message = refusal(only_bf16, Hints())
    assert f"{only_bf16} has its weights in other variants alone: bf16." in message
    assert "`--variant bf16`" in message

    found = load_checkpoint(only_bf16, Hints(variant="bf16"))

    weights = found.model.state_dict()["blocks.0.attn.proj.weight"]
    assert torch.equal(weights, weights.bfloat16().float())
    assert found.variant == "bf16"


def test_a_variant_goes_before_the_weights_without_one(tmp_path: Path) -> None:
    model = write_diffusers(tmp_path)
    key = "blocks.0.attn.proj.weight"
    plain = load_checkpoint(tmp_path).model.state_dict()[key].clone()
    with torch.no_grad():
        model.transformer_blocks[0].attn1.to_out[0].weight += 1
    model.save_pretrained(tmp_path, variant="non_ema")

    assert torch.equal(load_checkpoint(tmp_path).model.state_dict()[key], plain)
    other = load_checkpoint(tmp_path, Hints(variant="non_ema")).model.state_dict()[key]
    assert torch.equal(other, plain + 1)


def test_a_variant_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    model = write_diffusers(tmp_path)
    assert "no variant 'ema' (found: none). Name a folder that has it, or" in refusal(
        tmp_path, Hints(variant="ema")
    )
    model.save_pretrained(tmp_path, variant="fp16")
    model.save_pretrained(tmp_path, variant="bf16", max_shard_size="100KB")
    assert "(found: bf16, fp16). Say `--variant bf16`" in refusal(tmp_path, Hints(variant="ema"))


def test_a_file_has_no_variants_and_a_folder_no_sets(tmp_path: Path) -> None:
    path = write_dit(tmp_path / "a.pt")
    assert "is no folder, which alone has variants" in refusal(path, Hints(variant="bf16"))
    write_diffusers(tmp_path)
    assert "Leave `--weights` out" in refusal(tmp_path, Hints(weights="ema"))


@pytest.mark.parametrize("file", ["..", ".", "", "a/b.safetensors", "a\0b"])
def test_a_list_of_shards_names_files_beside_it_alone(tmp_path: Path, file: str) -> None:
    index = tmp_path / "a.index.json"
    index.write_text(json.dumps({"weight_map": {"weight": file}}))
    with pytest.raises(CheckpointError, match="does not say where the weights are"):
        shards_of(index)
