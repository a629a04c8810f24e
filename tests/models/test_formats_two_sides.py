"""Files of other people's whose grid has two sides: told by their positions, which are DiT's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from format_helpers import HEADS, SHAPE, Weights, dit_weights, write_dit
from model_helpers import call, filled, tiny_edt

from pitstop.models.checkpoint import build_model, load_checkpoint
from pitstop.models.format import Hints
from pitstop.models.layers import sincos_positions


def weights_of(grid: tuple[int, int], dtype: torch.dtype = torch.float32) -> Weights:
    placed = sincos_positions(SHAPE.width, grid)
    return {name: w.to(dtype) for name, w in {**dit_weights(), "pos_embed": placed}.items()}


# 16 tokens fill a square of 4 x 4 too.
@pytest.mark.parametrize("grid", [(2, 4), (4, 2), (4, 4), (2, 8), (8, 2), (1, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_positions_tell_rows_and_columns(
    grid: tuple[int, int], dtype: torch.dtype, tmp_path: Path
) -> None:
    found = load_checkpoint(write_dit(tmp_path / "a.pt", weights_of(grid, dtype)), HEADS)

    assert found.config.grid == grid
    assert found.config.input_size == (grid[0] * SHAPE.patch, grid[1] * SHAPE.patch)
    latent = torch.zeros(1, SHAPE.channels, *found.config.input_size)
    with torch.inference_mode():
        answer = found.model(latent, torch.zeros(1), torch.zeros(1, dtype=torch.int64))
    assert answer.shape == (1, SHAPE.outputs, *found.config.input_size)


def test_a_sit_of_two_sides_is_read_as_one(tmp_path: Path) -> None:
    path = write_dit(tmp_path / "a.pt", weights_of((2, 4)))
    found = load_checkpoint(path, Hints("sit", num_heads=SHAPE.heads))
    assert (found.config.grid, found.config.prediction_type) == ((2, 4), "velocity")


def test_an_edt_of_two_sides_is_read_without_a_modulation_of_its_attention(tmp_path: Path) -> None:
    model = filled(build_model(tiny_edt(input_size=(16, 32))))
    found = load_checkpoint(write_dit(tmp_path / "a.pt", model.state_dict()))

    assert found.config == model.config
    assert found.config.amm.blocks == ()
    assert torch.equal(call(found.model), call(model))


def test_learned_positions_of_a_square_number_are_the_squares(tmp_path: Path) -> None:
    learned = torch.randn(1, 16, SHAPE.width, generator=torch.Generator().manual_seed(0))
    path = write_dit(tmp_path / "a.pt", {**dit_weights(), "pos_embed": learned})
    found = load_checkpoint(path, HEADS)
    assert found.config.grid == (4, 4)
    assert torch.equal(found.model.pos_embed, learned)
