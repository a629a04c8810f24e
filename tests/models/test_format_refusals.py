"""Files that are no checkpoint, or not one that can be read: each is refused in one line."""

from __future__ import annotations

import argparse
import struct
from pathlib import Path

import pytest
import torch
from edt_helpers import edt_weights
from format_helpers import (
    HEADS,
    SHAPE,
    Shape,
    change_config,
    dit_weights,
    refusal,
    repa_weights,
    write_diffusers,
    write_dit,
    write_training,
)
from model_helpers import tiny_pit
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pitstop import CheckpointError
from pitstop.export.trace import load_source
from pitstop.models.checkpoint import (
    Checkpoint,
    build_model,
    load_checkpoint,
    save_checkpoint,
    with_amm,
)
from pitstop.models.format import Hints
from pitstop.models.formats import FORMATS


def pixart(folder: Path) -> None:
    from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel

    model = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        cross_attention_dim=16,
        caption_channels=12,
        sample_size=8,
    )
    model.save_pretrained(folder)


def test_a_text_to_image_transformer_is_refused_as_one(tmp_path: Path) -> None:
    pixart(tmp_path)
    message = refusal(tmp_path)
    assert "is a text-to-image transformer, not a class-conditional one" in message
    assert "cross_attention_dim" in message
    assert "is a text-to-image transformer" in refusal(tmp_path, Hints("dit"))
    inside = tmp_path / "diffusion_pytorch_model.safetensors"
    assert "cross_attention_dim" in refusal(inside)
    assert "caption_projection" in refusal(inside.rename(tmp_path / "alone.safetensors"))


def test_weights_of_no_known_format_name_their_keys(tmp_path: Path) -> None:
    unet = {f"down_blocks.0.resnets.{index:02}.weight": torch.ones(1) for index in range(13)}
    message = refusal(write_dit(tmp_path / "unet.pt", unet))
    assert "is in no format that is known" in message
    assert "resnets.09.weight and 3 more" in message
    assert "The project's docs/checkpoints.md lists" in message


def test_an_unknown_format_is_told_with_the_known_ones(tmp_path: Path) -> None:
    message = refusal(write_dit(tmp_path / "a.pt"), Hints("dti"))
    assert message.endswith(f"Choose one of: {', '.join(FORMATS)}.")


@pytest.mark.parametrize("name", sorted(dit_weights(Shape(depth=1))))
def test_any_key_that_is_missing_is_named(name: str, tmp_path: Path) -> None:
    weights = dit_weights()
    del weights[name]
    assert name in refusal(write_dit(tmp_path / "a.pt", weights))


def test_of_many_keys_missing_or_left_over_the_first_ten_are_named(tmp_path: Path) -> None:
    weights = dit_weights()
    missing = sorted(name for name in weights if name.startswith("blocks.1."))
    rest = {name: tensor for name, tensor in weights.items() if name not in missing[:5]}
    message = refusal(write_dit(tmp_path / "a.pt", rest))
    assert f"read as official DiT, lacks {', '.join(missing[:5])}." in message

    extra = {f"extra.{index:02}": torch.zeros(1) for index in range(12)}
    message = refusal(write_dit(tmp_path / "a.pt", {**weights, **extra}))
    assert "has, against its config, extra.00, extra.01" in message
    assert "extra.09 and 2 more" in message


@pytest.mark.parametrize("number", ["200000", "9" * 5000])
def test_a_block_that_no_model_has_is_refused(number: str, tmp_path: Path) -> None:
    weights = {**dit_weights(), f"blocks.{number}.attn.qkv.weight": torch.ones(1)}
    assert f"blocks.{number}" in refusal(write_dit(tmp_path / "a.pt", weights))


def test_a_config_of_other_peoples_beside_the_weights_is_not_ours(tmp_path: Path) -> None:
    torch.save({"ema": dit_weights(), "config": {"lr": 1e-4}}, tmp_path / "a.pt")
    assert load_checkpoint(tmp_path / "a.pt", HEADS).format == "dit"


@pytest.mark.parametrize("asked", ["9" * 5000, "\u0661", "-1"])
def test_a_modulation_that_names_no_blocks_is_refused(asked: str, tmp_path: Path) -> None:
    found = load_checkpoint(write_dit(tmp_path / "a.pt"), HEADS)
    with pytest.raises(CheckpointError, match="block numbers such as 8,10"):
        with_amm(found, asked)


def test_weights_of_several_dtypes_are_refused(tmp_path: Path) -> None:
    weights = dit_weights()
    weights["blocks.1.attn.qkv.weight"] = weights["blocks.1.attn.qkv.weight"].half()
    message = refusal(write_dit(tmp_path / "a.pt", weights))
    assert "mixes" in message
    assert "torch.float16 (blocks.1.attn.qkv.weight)" in message
    assert "torch.float32" in message


@pytest.mark.parametrize(
    ("name", "sides", "message"),
    [
        ("x_embedder.proj.weight", (32, 16), "has shape [32, 16], expected 4 sides"),
        ("x_embedder.proj.weight", (0, 4, 2, 2), "has shape [0, 4, 2, 2]"),
        ("pos_embed", (1, 15, 32), "has 15 tokens, which fill no square"),
        ("final_layer.linear.weight", (30, 32), "has 30 rows, expected 16, or 32"),
        ("final_layer.linear.weight", (48, 32), "has 48 rows, expected 16, or 32"),
        ("blocks.1.attn.qkv.weight", (96, 31), "has shape [96, 31], but its config expects"),
    ],
)
def test_a_shape_that_no_dit_has_is_told(
    name: str, sides: tuple[int, ...], message: str, tmp_path: Path
) -> None:
    weights = {**dit_weights(), name: torch.zeros(sides)}
    assert message in refusal(write_dit(tmp_path / "a.pt", weights))


@pytest.mark.parametrize("kept", [0, 100, 5000, 60_000])
def test_a_truncated_file_is_refused(kept: int, tmp_path: Path) -> None:
    path = write_training(tmp_path / "a.pt", dit_weights())
    path.write_bytes(path.read_bytes()[:kept])
    assert "is not a whole PyTorch file" in refusal(path)


@pytest.mark.parametrize(
    "tensor", [torch.empty(1, 16, 32, device="meta"), torch.zeros(1).expand(1, 16, 32)]
)
def test_a_tensor_without_its_numbers_is_refused(tensor: Tensor, tmp_path: Path) -> None:
    path = write_dit(tmp_path / "a.pt", {**dit_weights(), "pos_embed": tensor})
    assert "has shape [1, 16, 32] without so many numbers" in refusal(path)


@pytest.mark.parametrize("kept", [None, {}])
def test_averaged_weights_that_were_not_kept_are_passed_over(kept: object, tmp_path: Path) -> None:
    torch.save({"ema": kept, "model": dit_weights()}, tmp_path / "a.pt")
    assert load_checkpoint(tmp_path / "a.pt", HEADS).config.depth == SHAPE.depth


class Settings:
    """A class of somebody's training script."""


def test_an_unknown_pickle_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"ema": dit_weights(), "args": argparse.Namespace(more=Settings())}, path)
    message = refusal(path)
    assert (
        "test_format_refusals.Settings, not tensors alone, and could run code when opened"
        in message
    )
    assert 'torch.save(content["ema"], "weights.pt")' in message


@pytest.mark.parametrize("content", [dit_weights()["pos_embed"], [1, 2], 3])
def test_a_pickle_without_names_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    assert "not weights by name" in refusal(tmp_path / "a.pt")


@pytest.mark.parametrize("lacking", ["y_embedder.embedding_table.weight", "pos_embed"])
def test_all_keys_that_are_missing_are_named_at_once(lacking: str, tmp_path: Path) -> None:
    weights = dit_weights()
    missing = sorted([lacking, "blocks.0.mlp.fc1.weight", "blocks.2.attn.proj.bias"])
    rest = {name: tensor for name, tensor in weights.items() if name not in missing}
    message = refusal(write_dit(tmp_path / "a.pt", rest))
    assert f"read as official DiT, lacks {', '.join(missing)}." in message


def test_all_keys_that_a_folder_of_diffusers_lacks_are_named_at_once(tmp_path: Path) -> None:
    write_diffusers(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    missing = ["pos_embed.proj.weight", "proj_out_2.bias", "transformer_blocks.1.ff.net.2.bias"]
    save_file({k: v for k, v in load_file(path).items() if k not in missing}, path)
    message = refusal(tmp_path, Hints())
    assert f"read as diffusers' DiTTransformer2DModel, lacks {', '.join(missing)}." in message


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("blocks.0.mlp.w12.weight", "SwiGLU MLPs"),
        ("blocks.2.attn.q_norm.weight", "normalised queries and keys"),
        ("blocks.1.norm1.weight", "norms with weights of their own"),
        ("feat_rope.freqs_cos", "rotary positions"),
        ("blocks.0.attn.rope.freqs", "rotary positions"),
    ],
)
def test_a_dit_of_another_build_is_told_from_a_broken_one(
    key: str, what: str, tmp_path: Path
) -> None:
    weights = {k: v for k, v in dit_weights().items() if ".mlp.fc1." not in k}
    message = refusal(write_dit(tmp_path / "a.pt", {**weights, key: torch.ones(32)}))
    assert f"has {what} ({key}), which no DiT" in message
    assert "download it again" not in message


def test_a_modulation_without_shift_is_told_from_a_broken_one(tmp_path: Path) -> None:
    weights = dit_weights()
    for key in [key for key in weights if key.startswith("blocks.") and "adaLN" in key]:
        weights[key] = weights[key][: 4 * SHAPE.width]
    message = refusal(write_dit(tmp_path / "a.pt", weights))
    assert "has modulations without shift (128 rows in blocks.0.adaLN_modulation.1" in message
    assert "It is another model" in message


@pytest.mark.parametrize(
    "extra",
    [{"global_step": torch.tensor(7)}, {"blocks.0.attn.qkv.lora_A.weight": torch.ones(4, 32)}],
)
def test_keys_too_many_are_to_be_taken_out_or_merged(
    extra: dict[str, Tensor], tmp_path: Path
) -> None:
    message = refusal(write_dit(tmp_path / "a.pt", {**dit_weights(), **extra}))
    assert f"has, against its config, {next(iter(extra))}. Take them out of the file" in message
    assert "merge a LoRA's into its weights" in message
    assert "download it again" not in message


def test_a_lora_alone_is_told_as_one(tmp_path: Path) -> None:
    lora = {"base_model.model.blocks.0.attn.qkv.lora_A.weight": torch.ones(4, 32)}
    message = refusal(write_dit(tmp_path / "a.pt", lora))
    assert "holds a LoRA (base_model.model.blocks.0.attn.qkv.lora_A.weight)" in message
    assert "Merge it into the weights" in message


def test_a_whole_file_that_does_not_fit_is_not_to_be_downloaded_again(tmp_path: Path) -> None:
    whole = dit_weights()
    changed = {"final_layer.linear.weight": torch.zeros(30, 32), "pos_embed": torch.zeros(16, 32)}
    for key, tensor in changed.items():
        assert "It is another model" in refusal(
            write_dit(tmp_path / "a.pt", {**whole, key: tensor})
        )
    del whole["blocks.1.attn.qkv.weight"]
    message = refusal(write_dit(tmp_path / "a.pt", whole))
    assert "It is another model, or was saved in part" in message
    assert "the project's docs/checkpoints.md" in message


def test_a_file_under_the_other_libraries_ending_is_to_be_renamed(tmp_path: Path) -> None:
    torch.save(dit_weights(), tmp_path / "a.safetensors")
    assert "Rename it to end in .pt." in refusal(tmp_path / "a.safetensors")
    save_file(dit_weights(), tmp_path / "b.pt")
    assert "Rename it to end in .safetensors." in refusal(tmp_path / "b.pt")


def test_a_table_of_other_classes_than_the_config_says_is_refused(tmp_path: Path) -> None:
    write_diffusers(tmp_path)
    change_config(tmp_path, num_embeds_ada_norm=9)
    assert "has 4 rows, which are not those of the 9 classes" in refusal(tmp_path, Hints())


@pytest.mark.parametrize(("protocol", "zipped"), [(0, True), (4, True), (4, False)])
@pytest.mark.filterwarnings("error")
def test_another_pickle_protocol_is_refused_without_a_warning(
    protocol: int, zipped: bool, tmp_path: Path
) -> None:
    path = tmp_path / "a.pt"
    torch.save(dit_weights(), path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    message = refusal(path)
    assert "is pickled in another way than torch.save does by default" in message
    assert "torch.save(" in message


@pytest.mark.filterwarnings("error", "ignore:.torch.jit:DeprecationWarning")
def test_a_torchscript_archive_is_refused_with_the_way_to_its_weights(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(path)
    message = refusal(path)
    assert "is a TorchScript archive" in message
    assert 'torch.jit.load("a.pt").state_dict()' in message


@pytest.mark.parametrize(
    ("hints", "message"),
    [
        (Hints("dit"), "is pitstop's own, in no other format. Leave `--format` out"),
        (Hints(num_heads=3), "has num_heads 4, not 3. Leave `--heads` out"),
        (Hints(num_classes=7), "has num_classes 10, not 7. Leave `--classes` out"),
    ],
)
def test_what_is_said_against_a_preset_or_a_file_of_ours_is_refused(
    hints: Hints, message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=f"fashion {message}"):
        load_source("fashion", hints=hints)
    path = tmp_path / "own.safetensors"
    save_checkpoint(load_source("fashion"), path)
    assert f"{path} {message}" in refusal(path, hints)


def test_a_file_of_ours_with_several_dtypes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    save_checkpoint(Checkpoint(build_model(tiny_pit())), path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    weights = load_file(path)
    key = "blocks.0.mlp.fc1.weight"
    save_file({**weights, key: weights[key].half()}, path, metadata)
    assert f"torch.float16 ({key})" in refusal(path, Hints())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_attention_heads": 0}, "has 0 heads of 8 channels"),
        ({"attention_head_dim": None}, "has 4 heads of None channels"),
        ({"attention_head_dim": 9}, "has 4 heads of 9 channels"),
        ({"num_embeds_ada_norm": 4}, "not those of the 4 classes in its config.json and of one"),
        ({"num_embeds_ada_norm": 0}, "not those of the 0 classes"),
        ({"sample_size": 16384}, "which are 67108864 tokens. It must be 262144 tokens at most"),
    ],
)
def test_a_config_of_diffusers_that_its_weights_contradict_is_refused(
    fields: dict[str, object], message: str, tmp_path: Path
) -> None:
    write_diffusers(tmp_path)
    change_config(tmp_path, **fields)
    assert message in refusal(tmp_path, Hints())


@pytest.mark.parametrize(
    ("hints", "message"),
    [
        (Hints(num_heads=8), "has 4 heads, not 8. Leave `--heads` out"),
        (Hints(num_classes=4), "has 3 classes, not 4. Leave `--classes` out"),
    ],
)
def test_what_is_said_against_a_config_of_diffusers_is_refused(
    hints: Hints, message: str, tmp_path: Path
) -> None:
    write_diffusers(tmp_path)
    assert message in refusal(tmp_path, hints)


def test_heads_that_are_said_stand_in_for_those_of_a_config_that_does_not_fit(
    tmp_path: Path,
) -> None:
    write_diffusers(tmp_path)
    change_config(tmp_path, attention_head_dim=9)
    assert load_checkpoint(tmp_path, HEADS).config.num_heads == SHAPE.heads


VELOCITY = {"path_type": "Linear", "prediction": "velocity"}


@pytest.mark.parametrize(
    ("weights", "arguments", "found", "told"),
    [
        (dit_weights(), {}, "official DiT", "edt"),
        (dit_weights(), {}, "official DiT", "diffusers"),
        (dit_weights(), VELOCITY, "SiT", "dit"),
        (dit_weights(), VELOCITY, "SiT", "repa"),
        (repa_weights(), {}, "REPA", "dit"),
        (repa_weights(), {}, "REPA", "sit"),
        (edt_weights(), {}, "official EDT", "dit"),
    ],
)
def test_a_format_that_the_file_contradicts_is_refused(
    weights: dict[str, Tensor], arguments: dict[str, str], found: str, told: str, tmp_path: Path
) -> None:
    path = write_training(tmp_path / "a.pt", weights, **arguments)
    message = refusal(path, Hints(told))
    assert f"is a file of {found}, as its keys or what is beside them tell, not of" in message
    assert message.endswith("Leave `--format` out.")


def test_a_pit_without_its_config_is_told_whatever_format_is_said(tmp_path: Path) -> None:
    path = write_dit(tmp_path / "a.pt", build_model(tiny_pit()).state_dict())
    assert "holds a PiT without its config" in refusal(path, Hints("dit"))


def test_an_old_file_of_repa_lacks_a_key_by_the_name_that_it_has_there(tmp_path: Path) -> None:
    weights = {
        key.replace("blocks.2.", "decoder_blocks.0."): tensor
        for key, tensor in repa_weights().items()
    }
    del weights["decoder_blocks.0.mlp.fc1.weight"]
    message = refusal(write_dit(tmp_path / "a.pt", weights))
    assert "read as REPA, lacks decoder_blocks.0.mlp.fc1.weight." in message


def test_a_version_among_the_facts_of_other_peoples_is_not_ours(tmp_path: Path) -> None:
    torch.save({"ema": dit_weights(), "format_version": 3}, tmp_path / "a.pt")
    assert load_checkpoint(tmp_path / "a.pt", HEADS).format == "dit"


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_an_archive_whose_end_is_damaged_is_no_whole_file(tmp_path: Path, name: str) -> None:
    of_two_disks = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 2)
    (tmp_path / name).write_bytes(100 * b" " + of_two_disks + b"PK\x05\x06" + bytes(18))

    with pytest.raises(CheckpointError, match=r"is no safetensors file but|is not a whole PyTorch"):
        load_checkpoint(tmp_path / name)
