"""The positions of a checkpoint whose image size is said."""

from __future__ import annotations

import math

import pytest
import torch
from model_helpers import filled, tiny_dit, tiny_pit
from torch import Tensor
from torch.nn import functional

from pitstop.models.checkpoint import Checkpoint, build_model, with_input_size
from pitstop.models.layers import sincos_positions
from pitstop.models.positions import are_sincos, resample_positions


def placed(positions: Tensor) -> Checkpoint:
    """A DiT with 8 x 8 tokens of 32 channels, and these positions."""
    model = filled(build_model(tiny_dit()))
    model.load_state_dict({**model.state_dict(), "pos_embed": positions})
    return Checkpoint(model)


def learned(tokens: int = 64) -> Tensor:
    return torch.randn(1, tokens, 32, generator=torch.Generator().manual_seed(3))


def test_the_own_image_size_keeps_positions_of_any_kind_to_the_bit() -> None:
    checkpoint = placed(learned())
    same = with_input_size(checkpoint, (16, 16))
    assert torch.equal(same.model.pos_embed, learned())
    assert same.notes == ()


@pytest.mark.parametrize("size", [(24, 24), (32, 16), (8, 8)])
def test_positions_that_are_not_sincos_are_interpolated_with_a_note(size: tuple[int, int]) -> None:
    grid = (size[0] // 2, size[1] // 2)
    image = learned().reshape(1, 8, 8, 32).permute(0, 3, 1, 2)
    wanted = functional.interpolate(
        image, size=grid, mode="bicubic", antialias=True, align_corners=False
    )

    found = with_input_size(placed(learned()), size)

    assert torch.equal(found.model.pos_embed, wanted.permute(0, 2, 3, 1).reshape(1, -1, 32))
    (note,) = found.notes
    assert f"interpolated (bicubic) from 8 x 8 tokens to {grid[0]} x {grid[1]}" in note


def test_interpolation_keeps_a_constant_and_the_order_of_rows_and_columns() -> None:
    ramp = torch.arange(8.0).repeat_interleave(8).reshape(1, 64, 1).expand(1, 64, 4)

    found = resample_positions(ramp, (8, 8), (4, 16)).reshape(4, 16, 4)

    assert torch.allclose(found, found[:, :1, :1].expand(4, 16, 4), atol=1e-5)  # rows alone matter
    assert (found[:, 0, 0].diff() > 1.5).all()
    assert resample_positions(torch.ones(1, 64, 4), (8, 8), (5, 7)).allclose(torch.ones(1, 35, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_sincos_positions_are_known_in_any_type_and_computed_anew(dtype: torch.dtype) -> None:
    stored = sincos_positions(32, (8, 8)).to(dtype).float()
    found = with_input_size(placed(stored), (32, 16))
    assert torch.equal(found.model.pos_embed, sincos_positions(32, (16, 8)))
    assert found.notes == ()


def test_angles_in_float32_are_sincos_and_trained_ones_are_not() -> None:
    omega = 10000.0 ** -(torch.arange(8) / 8)
    columns, rows = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="xy")
    angles = [torch.outer(axis.flatten(), omega) for axis in (columns, rows)]
    single = torch.cat([part for a in angles for part in (a.sin(), a.cos())], dim=1)[None]

    assert are_sincos(single, (64, 64))
    assert not are_sincos(single + 1e-3 * math.pi, (64, 64))
    assert not are_sincos(single.flip(2), (64, 64))


def test_a_pit_whose_positions_were_learned_keeps_them_too() -> None:
    model = filled(build_model(tiny_pit()))
    model.load_state_dict({**model.state_dict(), "pos_embed": learned()})
    found = with_input_size(Checkpoint(model), (16, 16))
    assert torch.equal(found.model.pos_embed, learned())
