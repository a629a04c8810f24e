"""Other people's checkpoints: what is told from their keys, what they compute, what is refused."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from format_helpers import (
    SHAPE,
    SIDE,
    Shape,
    diffusers_forward,
    dit_forward,
    dit_weights,
    repa_weights,
    sit_forward,
    write_diffusers,
    write_dit,
    write_training,
)
from model_helpers import relative_l2
from safetensors.torch import load_file, save_file
from torch import Tensor

from pitstop.models.checkpoint import (
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
    with_amm,
)
from pitstop.models.dit import DitConfig
from pitstop.models.dit_keys import find_ratio
from pitstop.models.errors import ModelError
from pitstop.models.format import Hints
from pitstop.models.formats import FORMATS

HEADS = Hints(num_heads=SHAPE.heads)
SIT = Hints("sit", SHAPE.heads)
LATENT = torch.randn(3, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
LABEL = torch.tensor([0, 2, 3])  # 3 is the null class
STEPS = torch.tensor([999.0, 341.0, 0.0])
TIMES = torch.tensor([0.0, 0.37, 1.0])
ONE_STEP = 1e-5

DIT = DitConfig(
    input_size=(SIDE, SIDE),
    hidden_size=SHAPE.width,
    depth=SHAPE.depth,
    num_heads=SHAPE.heads,
    num_classes=SHAPE.classes,
)


def answer(checkpoint: Checkpoint, time: Tensor) -> Tensor:
    with torch.inference_mode():
        found: Tensor = checkpoint.model(LATENT, time, LABEL)
    return found


def refusal(path: Path, hints: Hints = HEADS) -> str:
    """The message with which a file is refused: one line, a problem and a remedy."""
    with pytest.raises(ModelError) as raised:
        load_checkpoint(path, hints)
    assert len(str(raised.value).splitlines()) == 1
    assert raised.value.remedy.strip()
    return str(raised.value)


# Official DiT


def test_a_dit_is_told_by_its_shapes_and_computes_what_dit_does(tmp_path: Path) -> None:
    found = load_checkpoint(write_dit(tmp_path / "model.pt"), HEADS)

    assert found.config == DIT
    assert found.format == "dit"
    assert "CC-BY-NC 4.0" in found.licence
    expected = dit_forward(dit_weights(), LATENT, STEPS, LABEL)
    assert relative_l2(expected, answer(found, STEPS)) <= ONE_STEP


@pytest.mark.parametrize(
    ("shape", "fields"),
    [
        (Shape(depth=7), {"depth": 7}),
        (Shape(width=64, heads=1, mlp=100), {"hidden_size": 64, "mlp_ratio": 100 / 64}),
        (Shape(patch=4, grid=2), {"patch_size": 4}),
        (Shape(channels=3, outputs=3), {"in_channels": 3, "learn_sigma": False}),
        (Shape(classes=12), {"num_classes": 12}),
        (Shape(classes=999), {"num_classes": 1000, "class_dropout_prob": 0.0}),
        (Shape(classes=1000), {"num_classes": 1000}),
        (Shape(grid=5), {"input_size": (10, 10)}),
    ],
    ids=str,
)
def test_every_size_is_told_by_the_shapes(
    shape: Shape, fields: dict[str, Any], tmp_path: Path
) -> None:
    path = write_dit(tmp_path / "model.pt", dit_weights(shape))
    found = load_checkpoint(path, Hints(num_heads=shape.heads))
    told = dataclasses.replace(DIT, num_heads=shape.heads)
    assert found.config == dataclasses.replace(told, **fields)


@pytest.mark.parametrize(("width", "heads"), [(128, 2), (1152, 16), (384, 6)])
def test_heads_are_those_of_the_published_models(width: int, heads: int, tmp_path: Path) -> None:
    shape = Shape(width=width, depth=1, mlp=4 * width)
    path = write_dit(tmp_path / "model.pt", dit_weights(shape))
    assert load_checkpoint(path).config.num_heads == heads


def test_heads_that_nothing_tells_are_asked_for(tmp_path: Path) -> None:
    message = refusal(write_dit(tmp_path / "model.pt"), Hints())
    assert "is 32 channels wide" in message
    assert "`--heads N`" in message


def test_a_number_of_heads_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    assert "num_heads 5" in refusal(write_dit(tmp_path / "model.pt"), Hints(num_heads=5))


def test_classes_are_those_that_the_user_says(tmp_path: Path) -> None:
    path = write_dit(tmp_path / "model.pt")
    config = load_checkpoint(path, Hints(num_heads=4, num_classes=4)).config
    assert (config.num_classes, config.class_dropout_prob) == (4, 0.0)
    message = refusal(path, Hints(num_heads=4, num_classes=9))
    assert "has 4 rows, which are not those of 9 classes" in message
    assert "`--classes 3`" in message


@pytest.mark.parametrize(("hidden", "width"), [(1000, 384), (4608, 1152), (343, 333), (7, 10)])
def test_a_ratio_gives_its_channels_back(hidden: int, width: int) -> None:
    assert int(width * find_ratio(hidden, width)) == hidden


def test_a_training_checkpoint_gives_its_averaged_weights(tmp_path: Path) -> None:
    path = write_training(tmp_path / "0050000.pt", dit_weights(), model="DiT-S/2", num_classes=3)

    found = load_checkpoint(path, HEADS)

    assert found.config == DIT
    assert (
        relative_l2(dit_forward(dit_weights(), LATENT, STEPS, LABEL), answer(found, STEPS))
        <= ONE_STEP
    )
    assert "not read: model, opt" in found.notes


def test_the_arguments_of_the_training_tell_the_classes(tmp_path: Path) -> None:
    path = write_training(tmp_path / "a.pt", dit_weights(), num_classes=4)
    assert load_checkpoint(path, HEADS).config.num_classes == 4


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_what_wraps_a_model_in_training_is_taken_off_its_keys(prefix: str, tmp_path: Path) -> None:
    wrapped = {prefix + name: tensor for name, tensor in dit_weights().items()}
    assert load_checkpoint(write_dit(tmp_path / "a.pt", wrapped), HEADS).config == DIT


def test_the_same_weights_in_safetensors_are_the_same(tmp_path: Path) -> None:
    save_file(dit_weights(), tmp_path / "a.safetensors")
    found = load_checkpoint(tmp_path / "a.safetensors", HEADS)
    assert found.config == DIT
    assert torch.equal(
        answer(found, STEPS), answer(load_checkpoint(write_dit(tmp_path / "a.pt"), HEADS), STEPS)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_dtype_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    weights = {name: tensor.to(dtype) for name, tensor in dit_weights().items()}
    found = load_checkpoint(write_dit(tmp_path / "a.pt", weights), HEADS)
    for name, tensor in found.model.state_dict().items():
        assert torch.equal(tensor, weights[name].float())


def test_a_converted_checkpoint_can_be_saved_as_ours(tmp_path: Path) -> None:
    found = load_checkpoint(write_training(tmp_path / "a.pt", repa_weights()), HEADS)

    save_checkpoint(found, tmp_path / "ours.safetensors")
    again = load_checkpoint(tmp_path / "ours.safetensors")

    assert again.config == found.config
    assert again.licence == found.licence
    assert torch.equal(answer(again, TIMES), answer(found, TIMES))


# SiT


def test_a_sit_is_told_by_the_user_where_it_is_weights_alone(tmp_path: Path) -> None:
    path = write_dit(tmp_path / "model.pt")

    found = load_checkpoint(path, SIT)

    flow = {"prediction_type": "velocity", "data_at": 1}
    assert found.config == dataclasses.replace(DIT, **flow)
    assert found.format == "sit"
    assert not found.notes
    expected = sit_forward(dit_weights(), LATENT, TIMES, LABEL)
    assert relative_l2(expected, answer(found, TIMES).chunk(2, dim=1)[0]) <= ONE_STEP


def test_a_dit_that_could_be_a_sit_says_so(tmp_path: Path) -> None:
    notes = load_checkpoint(write_dit(tmp_path / "model.pt"), HEADS).notes
    assert any("--format sit" in note for note in notes)
    assert not load_checkpoint(tmp_path / "model.pt", Hints("dit", SHAPE.heads)).notes


def test_a_sit_is_told_by_the_arguments_of_its_training(tmp_path: Path) -> None:
    arguments = {"path_type": "Linear", "prediction": "velocity", "num_classes": 3}
    path = write_training(tmp_path / "a.pt", dit_weights(), **arguments)
    assert load_checkpoint(path, HEADS).format == "sit"


@pytest.mark.parametrize(("name", "value"), [("path_type", "GVP"), ("prediction", "score")])
def test_a_sit_that_was_trained_otherwise_is_refused(name: str, value: str, tmp_path: Path) -> None:
    arguments = {"path_type": "Linear", "prediction": "velocity", name: value}
    message = refusal(write_training(tmp_path / "a.pt", dit_weights(), **arguments))
    assert f"was trained with {name} '{value}'" in message


# REPA


def test_a_repa_is_told_by_its_projectors_which_are_dropped(tmp_path: Path) -> None:
    found = load_checkpoint(write_training(tmp_path / "last.pt", repa_weights()), HEADS)

    flow = {"prediction_type": "velocity", "data_at": 0, "cfg_channels": 4, "learn_sigma": False}
    assert found.config == dataclasses.replace(DIT, **flow)
    assert found.format == "repa"
    assert not any(name.startswith("projectors") for name in found.model.state_dict())
    assert "6 tensors left out: the projectors" in found.notes[1]
    expected = dit_forward(repa_weights(), LATENT, TIMES, LABEL)
    assert relative_l2(expected, answer(found, TIMES)) <= ONE_STEP


def test_the_later_blocks_of_an_old_repa_are_counted_on(tmp_path: Path) -> None:
    weights = repa_weights()
    for name in [name for name in weights if name.startswith(("blocks.1.", "blocks.2."))]:
        _, index, rest = name.split(".", 2)
        weights[f"decoder_blocks.{int(index) - 1}.{rest}"] = weights.pop(name)

    found = load_checkpoint(write_dit(tmp_path / "last.pt", weights), HEADS)

    assert found.config.depth == 3
    expected = dit_forward(repa_weights(), LATENT, TIMES, LABEL)
    assert relative_l2(expected, answer(found, TIMES)) <= ONE_STEP


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("decoder_blocks.foo.bar", "against its config, decoder_blocks.foo.bar"),
        ("decoder_blocks.1", "lacks blocks.3."),  # a block without any weights
    ],
)
def test_a_key_that_only_begins_like_a_later_block_is_refused(
    name: str, told: str, tmp_path: Path
) -> None:
    weights = {**repa_weights(), name: torch.ones(1)}
    assert told in refusal(write_dit(tmp_path / "a.pt", weights))


# diffusers


@pytest.mark.parametrize(
    "options", [{}, {"max_shard_size": "100KB"}, {"safe_serialization": False}], ids=str
)
def test_a_folder_of_diffusers_computes_what_diffusers_does(
    options: dict[str, Any], tmp_path: Path
) -> None:
    model = write_diffusers(tmp_path, **options)

    found = load_checkpoint(tmp_path)

    flavour = {"timestep_divisor": 127, "mlp_norm_eps": 1e-3, "cfg_channels": 4}
    assert found.config == dataclasses.replace(DIT, **flavour)
    assert found.format == "diffusers"
    expected = diffusers_forward(model, LATENT, STEPS, LABEL)
    assert relative_l2(expected, answer(found, STEPS)) <= ONE_STEP


def test_the_official_numbers_are_not_those_of_diffusers(tmp_path: Path) -> None:
    """What the flavour is for: without it the same weights give other answers."""
    model = write_diffusers(tmp_path)
    found = load_checkpoint(tmp_path)
    for field in ("timestep_divisor", "mlp_norm_eps"):
        official = dataclasses.replace(found.config, **{field: getattr(DIT, field)})
        other = type(found.model)(official)  # type: ignore[arg-type]
        other.load_state_dict(found.model.state_dict())
        expected = diffusers_forward(model, LATENT, STEPS, LABEL)
        assert relative_l2(expected, answer(Checkpoint(other.eval()), STEPS)) > 10 * ONE_STEP


def test_a_whole_pipeline_is_read_from_its_transformer(tmp_path: Path) -> None:
    write_diffusers(tmp_path / "transformer")
    (tmp_path / "model_index.json").write_text('{"_class_name": "DiTPipeline"}')
    assert load_checkpoint(tmp_path).format == "diffusers"


def change_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"norm_type": "layer_norm"}, "has norm_type 'layer_norm'"),
        ({"activation_fn": "geglu"}, "has activation_fn 'geglu'"),
        ({"num_attention_heads": "four"}, "num_attention_heads 'four' where a number"),
        ({"sample_size": None}, "sample_size None where a number"),
        ({"num_attention_heads": 5}, "has 5 heads of"),
        ({"num_layers": 9}, "has num_layers 9, but its weights have"),
        ({"_class_name": "PixArtTransformer2DModel"}, "is a PixArtTransformer2DModel"),
        ({"cross_attention_dim": 768}, "is a text-to-image transformer"),
        ({"text_embed_dim": 4096}, "is a text-to-image transformer"),
        ({"norm_eps": None}, "has norm_eps None where a number between 0 and 1"),
        ({"norm_eps": "x"}, "has norm_eps 'x' where"),
        ({"norm_eps": [1]}, "has norm_eps [1] where"),
        ({"norm_eps": 10**400}, "has norm_eps a whole number where"),
    ],
)
def test_a_config_that_is_no_dits_is_refused(
    fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write_diffusers(tmp_path)
    change_config(tmp_path, **fields)
    assert message in refusal(tmp_path, Hints())


def test_embedders_that_differ_from_block_to_block_are_refused(tmp_path: Path) -> None:
    write_diffusers(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    copy = "transformer_blocks.2.norm1.emb.timestep_embedder.linear_1.weight"
    weights = load_file(path)
    save_file({**weights, copy: weights[copy] + 1}, path)
    assert f"{copy} in {tmp_path} is not equal to transformer_blocks.0." in refusal(tmp_path)
    del weights[copy]
    save_file(weights, path)
    assert f"lacks {copy}" in refusal(tmp_path)


def test_a_folder_without_its_weights_names_them(tmp_path: Path) -> None:
    write_diffusers(tmp_path, max_shard_size="100KB")
    shard = min(tmp_path.glob("*.safetensors"))
    shard.unlink()
    assert f"lacks its weights {shard.name}" in refusal(tmp_path)


@pytest.mark.parametrize("map_", [None, {}, {"a": 3}, {"a": "../b.safetensors"}, ["a"]])
def test_an_index_that_leads_nowhere_is_refused(map_: object, tmp_path: Path) -> None:
    write_diffusers(tmp_path, max_shard_size="100KB")
    [index] = tmp_path.glob("*.index.json")
    index.write_text(json.dumps({"weight_map": map_}))
    refusal(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
def test_a_config_that_is_no_json_object_is_refused(text: str, tmp_path: Path) -> None:
    write_diffusers(tmp_path)
    (tmp_path / "config.json").write_text(text)
    assert "config.json" in refusal(tmp_path)


def test_the_weights_of_diffusers_alone_ask_for_their_folder(tmp_path: Path) -> None:
    write_diffusers(tmp_path)
    message = refusal(tmp_path / "diffusion_pytorch_model.safetensors")
    assert "no config.json beside it" in message
    assert "`save_pretrained`" in message


# What is refused


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
    assert "caption_projection" in refusal(tmp_path / "diffusion_pytorch_model.safetensors")


def test_weights_of_no_known_format_name_their_keys(tmp_path: Path) -> None:
    unet = {f"down_blocks.0.resnets.{index:02}.weight": torch.ones(1) for index in range(13)}
    message = refusal(write_dit(tmp_path / "unet.pt", unet))
    assert "is in no format that is known" in message
    assert "resnets.09.weight and 3 more" in message
    assert "docs/checkpoints.md" in message


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
    with pytest.raises(ModelError, match="block numbers such as 8,10"):
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
        ("y_embedder.embedding_table.weight", (1, 32), "num_classes is 0"),
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


def test_averaged_weights_that_were_not_kept_are_passed_over(tmp_path: Path) -> None:
    torch.save({"ema": None, "model": dit_weights()}, tmp_path / "a.pt")
    assert load_checkpoint(tmp_path / "a.pt", HEADS).config == DIT


class Settings:
    """A class of somebody's training script."""


def test_an_unknown_pickle_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"ema": dit_weights(), "args": argparse.Namespace(more=Settings())}, path)
    message = refusal(path)
    assert "test_formats.Settings, not tensors alone, and could run code when opened" in message
    assert 'torch.save(content["ema"], "weights.pt")' in message


@pytest.mark.parametrize("content", [dit_weights()["pos_embed"], [1, 2], 3])
def test_a_pickle_without_names_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    assert "not weights by name" in refusal(tmp_path / "a.pt")
