from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from edt_helpers import S2, amm_matrix, edt_shapes, position_bias
from model_helpers import call, filled, inputs, relative_l2, tiny_dit, tiny_edt
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from pitstop import ConfigError
from pitstop.models.amm import AmmConfig, attention_modulation, modulation_of, published_blocks
from pitstop.models.checkpoint import build_model
from pitstop.models.denoiser import Denoiser
from pitstop.models.edt import EdtConfig, RelativePositionBias

S = EdtConfig()
B = EdtConfig(hidden_size=624, num_heads=12, stage_heads=(12, 16, 20))
XL_SIZE: dict[str, Any] = {
    "hidden_size": 936,
    "num_heads": 18,
    "stage_heads": (18, 24, 30),
    "depth": 28,
}
XL = EdtConfig(**XL_SIZE, stage_depths=(6, 4, 4, 7, 7))
XL_OF_THE_README = EdtConfig(**XL_SIZE, stage_depths=(6, 6, 4, 6, 6))


def on_meta(config: EdtConfig) -> Denoiser:
    """The network without memory for its weights: for counting."""
    with torch.device("meta"):
        return build_model(config)


def test_edt_s_has_the_official_keys_and_shapes() -> None:
    weights = on_meta(S).state_dict()

    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == edt_shapes(S2)
    assert len(weights) == 164
    assert sum(tensor.numel() for tensor in weights.values()) == 38_550_458


@pytest.mark.parametrize(
    ("config", "millions", "billions"),
    [
        (S, 38.329146, 2.667),
        (B, 152.2621, 10.218),
        (XL, 698.52, 53.44),
        (XL_OF_THE_README, 708.445, 51.834),
    ],
    ids=["s", "b", "xl", "xl of the readme"],
)
def test_edt_is_as_large_and_multiplies_as_often_as_the_official_one(
    config: EdtConfig, millions: float, billions: float
) -> None:
    model = on_meta(config)
    with FlopCounterMode(display=False) as counter:
        model(*(tensor.to("meta") for tensor in inputs(config, batch=1)))

    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert learned / 1e6 == pytest.approx(millions, abs=0.005)
    assert counter.get_total_flops() / 2e9 == pytest.approx(billions, abs=0.005)


def test_a_bias_is_that_of_the_offset_between_query_and_key() -> None:
    bias = filled(RelativePositionBias((4, 4), 3))
    expected = position_bias(bias.relative_position_bias_table, 4)
    assert torch.equal(bias(), expected)


@pytest.mark.parametrize("learn_sigma", [True, False])
@pytest.mark.parametrize("input_size", [(16, 16), (8, 24)])
def test_the_output_has_the_latents_shape(learn_sigma: bool, input_size: tuple[int, int]) -> None:
    output = call(filled(build_model(tiny_edt(learn_sigma=learn_sigma, input_size=input_size))))
    assert output.shape == (2, 6 if learn_sigma else 3, *input_size)
    assert torch.isfinite(output).all()


def test_every_weight_has_a_part_in_the_answer() -> None:
    model = filled(build_model(tiny_edt()))
    model(*inputs(model.config)).square().sum().backward()
    idle = [
        name
        for name, weight in model.named_parameters()
        if weight.requires_grad and (weight.grad is None or not weight.grad.abs().max())
    ]
    assert idle == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stage_heads": (4,)}, "stage_heads is (4,). It must be two numbers or more"),
        ({"stage_heads": (5, 5, 6)}, "num_heads 4 the first"),
        ({"stage_heads": (4, 0, 6)}, "stage_heads is (4, 0, 6)"),
        ({"stage_depths": (1, 1, 1)}, "5 numbers that add up to depth 5"),
        ({"stage_depths": (1, 1, 1, 1, 2)}, "5 numbers that add up to depth 5"),
        ({"stage_depths": (1, 0, 2, 1, 1)}, "stage_depths is (1, 0, 2, 1, 1)"),
        ({"hidden_size": 4 * 5, "num_heads": 4}, "a multiple of 4 channels in each stage"),
        ({"input_size": (16, 12)}, "grid of 8 x 6 tokens. It must be one that can be halved 2"),
        ({"amm": AmmConfig((5,))}, "block indices from 0 to 4"),
        ({"amm": AmmConfig((0,)), "input_size": (8, 16)}, "block 0 with a grid of 4 x 8 tokens"),
        ({"amm": AmmConfig((2,)), "input_size": (8, 8)}, "block 2 with a grid of 1 x 1 tokens"),
    ],
)
def test_a_config_that_no_edt_has_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        tiny_edt(**fields)
    assert message in str(raised.value)


@pytest.mark.parametrize("blocks", [(3, 2), (2, 2)])
def test_the_modulated_blocks_stand_in_order_and_once(blocks: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="in rising order, each once"):
        AmmConfig(blocks)


# The modulation of attention


@pytest.mark.parametrize(
    ("side", "form", "zeros", "largest", "cut"),
    [
        (16, "exp", 2844, 1.3591409, 0.7726260),
        (8, "exp", 180, 1.3591409, 0.7487266),
        (32, "cos", 36028, 1.3, 0.5745292),
    ],
)
def test_the_modulation_is_that_of_the_authors(
    side: int, form: Any, zeros: int, largest: float, cut: float
) -> None:
    matrix = attention_modulation(side, form)

    assert matrix.shape == (1, 1, side**2, side**2)
    assert int((matrix == 0).sum()) == zeros
    assert matrix.max().item() == pytest.approx(largest, rel=1e-6)
    assert matrix[matrix > 0].min().item() == pytest.approx(cut, rel=1e-6)
    assert torch.allclose(matrix[0, 0], amm_matrix(side, large=form == "cos"), rtol=1e-6)


def test_the_softmax_is_modulated_in_the_named_blocks_alone_and_not_normalised_again() -> None:
    plain = filled(build_model(tiny_edt()))
    modulated = build_model(tiny_edt(amm=AmmConfig((3,)))).eval()
    modulated.load_state_dict(plain.state_dict())
    x = torch.randn(2, 16, 40, generator=torch.Generator().manual_seed(1))

    attention = modulated.blocks[3].attn
    q, k, v = attention.qkv(x).reshape(2, 16, 3, 5, 8).permute(2, 0, 3, 1, 4)
    scores = q @ k.mT / 8**0.5 + attention.rel_pos_bias()
    mixed = (functional.softmax(scores, dim=-1) * amm_matrix(4)) @ v
    expected = attention.proj(mixed.transpose(1, 2).flatten(2))

    assert relative_l2(expected, attention(x)) < 1e-6
    assert [
        index for index, block in enumerate(modulated.blocks) if block.attn.amm is not None
    ] == [3]
    assert relative_l2(call(plain), call(modulated)) > 1e-3


def test_a_plain_dit_can_be_modulated_too() -> None:
    plain = filled(build_model(tiny_dit()))
    modulated = build_model(tiny_dit(amm=AmmConfig((1, 2)))).eval()
    modulated.load_state_dict(plain.state_dict())
    assert relative_l2(call(plain), call(modulated)) > 1e-3


OTHER_STAGES = dataclasses.replace(S, stage_depths=(3, 2, 2, 2, 3))


@pytest.mark.parametrize(
    ("config", "guided", "weak"),
    [
        (S, (8,), (7, 10)),
        (B, (8,), (7, 10)),
        (XL, (23, 25), (23, 25)),
        (XL_OF_THE_README, (23, 25), (23, 25)),
        (OTHER_STAGES, (), ()),
        (tiny_edt(), (), ()),
    ],
    ids=["s", "b", "xl", "xl as in its figures", "other stages", "tiny"],
)
def test_the_published_blocks_go_by_stages_and_grid(
    config: EdtConfig, guided: tuple[int, ...], weak: tuple[int, ...]
) -> None:
    found = published_blocks(config.stage_depths, config.grid)
    assert (found.guided, found.weak) == (guided, weak)
    assert all(config.block_grids[block] in {(8, 8), (16, 16)} for block in (*guided, *weak))


def test_at_512_px_the_curve_is_the_flat_one() -> None:
    assert published_blocks(S.stage_depths, (32, 32)).guided == (10,)
    assert modulation_of((10,), (32, 32)) == AmmConfig((10,), "cos")
    assert modulation_of((10, 7, 7), (16, 16)) == AmmConfig((7, 10), "exp")
