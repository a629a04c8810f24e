"""EDT checkpoints as they are: what is told from their keys, what they compute, what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from edt_helpers import SHAPE, EdtShape, edt_forward, edt_shapes, edt_weights
from format_helpers import dit_weights, write_dit, write_training
from model_helpers import relative_l2

from pitstop import CheckpointError
from pitstop.models.checkpoint import (
    load_checkpoint,
    save_checkpoint,
    with_input_size,
)
from pitstop.models.edt import EdtConfig
from pitstop.models.format import Hints

LATENT = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(5))
LABEL = torch.tensor([0, 2, 3])  # 3 is the null class
STEPS = torch.tensor([999.0, 341.0, 0.0])
ONE_STEP = 1e-5

EDT = EdtConfig(
    input_size=(16, 16),
    hidden_size=16,
    depth=6,
    num_heads=4,
    num_classes=3,
    stage_heads=(4, 5, 6),
    stage_depths=(1, 1, 1, 1, 2),
)


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(path)
    assert len(str(raised.value).splitlines()) == 1
    assert raised.value.remedy.strip()
    return str(raised.value)


@torch.inference_mode()
def answer(model: torch.nn.Module) -> torch.Tensor:
    output: torch.Tensor = model(LATENT, STEPS, LABEL)
    return output


def test_an_edt_is_told_by_its_shapes_and_computes_what_edt_does(tmp_path: Path) -> None:
    found = load_checkpoint(write_dit(tmp_path / "dit.pt", edt_weights()))

    assert found.config == EDT
    assert found.format == "edt"
    assert "no licence is known" in found.licence
    expected = edt_forward(edt_weights(), LATENT, STEPS, LABEL)
    assert relative_l2(expected, answer(found.model)) <= ONE_STEP


def test_a_training_checkpoint_gives_its_averaged_weights(tmp_path: Path) -> None:
    path = write_training(tmp_path / "0400000.pt", edt_weights(), model="EDT-S/2", num_classes=3)

    found = load_checkpoint(path)

    assert found.config == EDT
    table = "blocks.5.attn.rel_pos_bias.relative_position_bias_table"
    assert torch.equal(found.model.state_dict()[table], edt_weights()[table])


@pytest.mark.parametrize(
    ("shape", "fields"),
    [
        (EdtShape(depths=(3, 1, 2, 1, 1)), {"stage_depths": (3, 1, 2, 1, 1), "depth": 8}),
        (EdtShape(heads=(4, 4, 4)), {"stage_heads": (4, 4, 4)}),
        (EdtShape(heads=(4, 2), depths=(1, 1, 2)), {"stage_heads": (4, 2), "depth": 4}),
        (EdtShape(grid=4), {"input_size": (8, 8)}),
        (EdtShape(patch=4), {"patch_size": 4, "input_size": (32, 32)}),
        (EdtShape(outputs=4), {"learn_sigma": False}),
    ],
    ids=str,
)
def test_every_size_is_told_by_the_shapes(
    shape: EdtShape, fields: dict[str, object], tmp_path: Path
) -> None:
    found = load_checkpoint(write_dit(tmp_path / "model.pt", edt_weights(shape)))
    told = dataclasses.replace(
        EDT, stage_heads=shape.heads, stage_depths=shape.depths, depth=len(shape.block_levels)
    )
    assert found.config == dataclasses.replace(told, **fields)  # type: ignore[arg-type]


def test_a_dit_is_still_a_dit(tmp_path: Path) -> None:
    path = write_dit(tmp_path / "edt.pt", dit_weights())
    assert load_checkpoint(path, Hints(num_heads=4)).format == "dit"


@pytest.mark.parametrize("name", sorted(edt_shapes(SHAPE)))
def test_any_key_that_is_missing_is_named(name: str, tmp_path: Path) -> None:
    weights = edt_weights()
    del weights[name]
    assert name in refusal(write_dit(tmp_path / "a.pt", weights))


def test_of_many_keys_missing_or_left_over_the_first_ten_are_named(tmp_path: Path) -> None:
    weights = edt_weights()
    for name, missing in (
        ("block.pt", sorted(name for name in weights if name.startswith("blocks.3."))),
        ("others.pt", sorted(name for name in weights if "_blocks." in name)),
    ):
        rest = {name: tensor for name, tensor in weights.items() if name not in missing}
        message = refusal(write_dit(tmp_path / name, rest))
        named = f"{', '.join(missing[:10])} and {len(missing) - 10} more"
        assert f"read as official EDT, lacks {named}" in message

    extra = {f"extra.{index:02}": torch.zeros(1) for index in range(12)}
    message = refusal(write_dit(tmp_path / "c.pt", {**weights, **extra}))
    assert "read as official EDT, has, against its config, extra.00, extra.01" in message
    assert "extra.09 and 2 more" in message


@pytest.mark.parametrize(
    ("name", "sides", "message"),
    [
        ("blocks.1.attn.proj.weight", (20, 24), "but its config expects [20, 20]"),
        ("blocks.3.adaLN_modulation.1.weight", (120, 20), "but its config expects [120, 16]"),
        ("down_blocks.0.pos_embed", (1, 9, 20), "but its config expects [1, 16, 20]"),
        (
            "blocks.3.attn.rel_pos_bias.relative_position_bias_table",
            (49, 6),
            "grids of 8, 4, 2, 4, 8 tokens, which do not halve and double again",
        ),
        (
            "blocks.1.attn.rel_pos_bias.relative_position_bias_table",
            (49,),
            "has shape [49], expected 2 sides",
        ),
    ],
)
def test_a_shape_that_no_edt_has_is_told(
    name: str, sides: tuple[int, ...], message: str, tmp_path: Path
) -> None:
    weights = {**edt_weights(), name: torch.zeros(sides)}
    assert message in refusal(write_dit(tmp_path / "a.pt", weights))


def test_an_edt_of_another_image_size_is_refused(tmp_path: Path) -> None:
    found = load_checkpoint(write_dit(tmp_path / "a.pt", edt_weights()))
    with pytest.raises(
        CheckpointError, match=r"relative_position_bias_table.*Leave `--image-size` out"
    ):
        with_input_size(found, (32, 32))


def test_our_own_file_of_it_keeps_config_and_answer(tmp_path: Path) -> None:
    found = load_checkpoint(write_dit(tmp_path / "a.pt", edt_weights()))
    save_checkpoint(found, tmp_path / "a.safetensors")

    again = load_checkpoint(tmp_path / "a.safetensors")

    assert again.config == found.config
    assert torch.equal(answer(found.model), answer(again.model))
