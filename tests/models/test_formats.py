"""Other people's checkpoints: what is told from their keys, what they compute, what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from format_helpers import (
    HEADS,
    SHAPE,
    SIDE,
    Shape,
    change_config,
    diffusers_forward,
    dit_forward,
    dit_weights,
    refusal,
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
)
from pitstop.models.dit import DitConfig
from pitstop.models.dit_keys import find_ratio
from pitstop.models.format import Hints

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
        (Shape(channels=1, outputs=2), {"in_channels": 1, "cfg_channels": 1}),
        (Shape(channels=2, outputs=4), {"in_channels": 2, "cfg_channels": 2}),
        (Shape(classes=0), {"num_classes": 1, "class_dropout_prob": 0.0}),
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


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", ["sit", "repa"])
def test_flows_of_one_or_two_channels_are_read(name: str, channels: int, tmp_path: Path) -> None:
    weights = dit_weights(Shape(channels=channels, outputs=channels))
    config = load_checkpoint(write_dit(tmp_path / "a.pt", weights), Hints(name, SHAPE.heads)).config
    assert (config.in_channels, config.cfg_channels) == (channels, channels)


def test_the_arguments_of_the_training_tell_the_heads_unless_the_user_does(tmp_path: Path) -> None:
    path = write_training(tmp_path / "a.pt", dit_weights(), num_heads=2)
    assert load_checkpoint(path).config.num_heads == 2
    assert load_checkpoint(path, HEADS).config.num_heads == SHAPE.heads
    path = write_training(tmp_path / "b.pt", dit_weights(), num_heads=5)
    assert "32 channels wide, which do not go into 5 heads" in refusal(path, Hints())


def test_heads_that_nothing_tells_are_asked_for(tmp_path: Path) -> None:
    message = refusal(write_dit(tmp_path / "model.pt"), Hints())
    assert "is 32 channels wide" in message
    assert "`--heads N`" in message


def test_a_number_of_heads_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    message = refusal(write_dit(tmp_path / "model.pt"), Hints(num_heads=5))
    assert "is 32 channels wide, which do not go into 5 heads" in message
    assert "`--heads N`" in message


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
        ("decoder_blocks.1", "lacks decoder_blocks.0."),  # a block without any weights
    ],
)
def test_a_key_that_only_begins_like_a_later_block_is_refused(
    name: str, told: str, tmp_path: Path
) -> None:
    weights = {**repa_weights(), name: torch.ones(1)}
    assert told in refusal(write_dit(tmp_path / "a.pt", weights))


def test_repas_prediction_tells_it_without_projectors(tmp_path: Path) -> None:
    weights = {k: v for k, v in repa_weights().items() if not k.startswith("projectors.")}
    path = write_training(tmp_path / "a.pt", weights, path_type="linear", prediction="v")
    assert load_checkpoint(path, HEADS).format == "repa"


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


def test_a_thousand_label_rows_of_diffusers_have_the_null_class_in_them(tmp_path: Path) -> None:
    """Its table has that row always, unlike the ImageNet tables of others."""
    write_diffusers(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    tables = {k: torch.ones(1000, SHAPE.width) for k in load_file(path) if "embedding_table" in k}
    save_file({**load_file(path), **tables}, path)
    change_config(tmp_path, num_embeds_ada_norm=999)
    config = load_checkpoint(tmp_path).config
    assert (config.num_classes, config.class_dropout_prob > 0) == (999, True)


@pytest.mark.parametrize(
    "options", [{}, {"max_shard_size": "100KB"}, {"safe_serialization": False}], ids=str
)
def test_weights_in_half_precision_go_by_a_name_of_their_own(
    options: dict[str, Any], tmp_path: Path
) -> None:
    model = write_diffusers(tmp_path).half()
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    model.save_pretrained(tmp_path, variant="fp16", **options)
    assert load_checkpoint(tmp_path).format == "diffusers"


def test_a_whole_pipeline_is_read_from_its_transformer(tmp_path: Path) -> None:
    write_diffusers(tmp_path / "transformer")
    (tmp_path / "model_index.json").write_text('{"_class_name": "DiTPipeline"}')
    assert load_checkpoint(tmp_path).format == "diffusers"


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
    alone = (tmp_path / "diffusion_pytorch_model.safetensors").rename(
        tmp_path / "alone.safetensors"
    )
    message = refusal(alone)
    assert "no config.json beside it" in message
    assert "`save_pretrained`" in message


def test_the_file_in_a_folder_of_diffusers_is_read_as_the_folder(tmp_path: Path) -> None:
    write_diffusers(tmp_path)
    found = load_checkpoint(tmp_path / "diffusion_pytorch_model.safetensors")
    assert found.config == load_checkpoint(tmp_path).config
