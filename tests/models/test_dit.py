import math

import pytest
import torch
from model_helpers import call, filled, inputs, relative_l2, tiny_dit
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from pitstop.models.checkpoint import build_model
from pitstop.models.denoiser import Denoiser, initialize_for_training
from pitstop.models.dit import Attention, Dit
from pitstop.models.layers import TimestepEmbedder, sincos_positions, unpatchify
from pitstop.models.presets import PRESETS


def on_meta(preset: str) -> Denoiser:
    """The network without memory for its weights: for counting."""
    with torch.device("meta"):
        return build_model(PRESETS[preset])


@pytest.mark.parametrize(
    ("preset", "millions"),
    [
        ("dit-s-2", 32.96),
        ("dit-b-2", 130.51),
        ("dit-l-2", 458.10),
        ("dit-xl-2", 675.13),
        ("dit-xl-2-512", 676.01),
    ],
)
def test_dit_has_as_many_parameters_as_the_official_one(preset: str, millions: float) -> None:
    count = sum(parameter.numel() for parameter in on_meta(preset).parameters())
    assert round(count / 1e6, 2) == millions


@pytest.mark.parametrize(
    ("preset", "billions"),
    [
        ("dit-s-2", 6.06),
        ("dit-b-2", 23.01),
        ("dit-l-2", 80.70),
        ("dit-xl-2", 118.6),
        ("dit-s-2-512", 31.44),
        ("dit-xl-2-512", 524.5),
    ],
)
def test_dit_multiplies_as_often_as_the_paper_says(preset: str, billions: float) -> None:
    model = on_meta(preset)
    with FlopCounterMode(display=False) as counter:
        model(*(tensor.to("meta") for tensor in inputs(model.config, batch=1)))
    assert counter.get_total_flops() / 2e9 == pytest.approx(billions, rel=1e-3)


def test_dit_xl_has_the_official_keys_and_shapes() -> None:
    shapes = {name: list(tensor.shape) for name, tensor in on_meta("dit-xl-2").state_dict().items()}

    assert len(shapes) == 292
    assert shapes["pos_embed"] == [1, 256, 1152]
    assert shapes["x_embedder.proj.weight"] == [1152, 4, 2, 2]
    assert shapes["t_embedder.mlp.0.weight"] == [1152, 256]
    assert shapes["t_embedder.mlp.2.bias"] == [1152]
    assert shapes["y_embedder.embedding_table.weight"] == [1001, 1152]
    assert shapes["blocks.27.attn.qkv.weight"] == [3456, 1152]
    assert shapes["blocks.0.attn.proj.bias"] == [1152]
    assert shapes["blocks.0.mlp.fc1.weight"] == [4608, 1152]
    assert shapes["blocks.0.mlp.fc2.weight"] == [1152, 4608]
    assert shapes["blocks.0.adaLN_modulation.1.weight"] == [6912, 1152]
    assert shapes["final_layer.linear.weight"] == [32, 1152]
    assert shapes["final_layer.adaLN_modulation.1.bias"] == [2304]


def test_attention_equals_that_of_torch() -> None:
    attention = filled(Attention(32, 4)).double()
    x = torch.randn(2, 10, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    q, k, v = attention.qkv(x).reshape(2, 10, 3, 4, 8).permute(2, 0, 3, 1, 4)
    expected = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 10, 32)

    assert relative_l2(attention.proj(expected), attention(x)) < 1e-12


def test_the_first_half_of_a_position_encodes_its_column() -> None:
    row, column = 2, 3
    width = 16  # 4 sines and 4 cosines of the column, then as many of the row
    position = sincos_positions(width, (4, 6))[0, row * 6 + column]

    slow = 10000 ** (-1 / 4)  # the second of four frequencies
    assert position[1].item() == pytest.approx(math.sin(column * slow), abs=1e-7)
    assert position[4 + 1].item() == pytest.approx(math.cos(column * slow), abs=1e-7)
    assert position[8].item() == pytest.approx(math.sin(row), abs=1e-7)
    assert position[8 + 4].item() == pytest.approx(math.cos(row), abs=1e-7)


def test_the_timestep_embedding_is_cosines_then_sines() -> None:
    embedder = filled(TimestepEmbedder(8))
    timestep = 741
    angles = [timestep * math.exp(-math.log(10000) * index / 128) for index in range(128)]
    sinusoids = torch.tensor([[*map(math.cos, angles), *map(math.sin, angles)]])

    found = embedder(torch.tensor([timestep]))

    assert relative_l2(embedder.mlp(sinusoids), found) < 1e-4  # float32 angles up to 741


def test_unpatchify_puts_the_channel_fastest() -> None:
    rows, columns, patch, channels = 2, 3, 2, 5
    tokens = torch.arange(rows * columns * patch * patch * channels).reshape(1, rows * columns, -1)
    image = unpatchify(tokens, (rows, columns), patch, channels)

    assert image.shape == (1, channels, rows * patch, columns * patch)
    token = 1 * columns + 2
    assert image[0, 4, 1 * patch + 1, 2 * patch + 0] == tokens[0, token, (1 * patch + 0) * 5 + 4]


def test_a_block_computes_what_the_paper_says() -> None:
    block = filled(Dit(tiny_dit())).blocks[0]
    generator = torch.Generator().manual_seed(2)
    x, c = torch.randn(2, 64, 32, generator=generator), torch.randn(2, 32, generator=generator)

    linear = block.adaLN_modulation[1]
    modulation = functional.linear(functional.silu(c), linear.weight, linear.bias)
    shift1, scale1, gate1, shift2, scale2, gate2 = modulation.reshape(2, 6, 1, 32).unbind(1)
    expected = x + gate1 * block.attn(
        functional.layer_norm(x, [32], eps=1e-6) * (1 + scale1) + shift1
    )
    inner = functional.layer_norm(expected, [32], eps=1e-6) * (1 + scale2) + shift2
    inner = functional.gelu(block.mlp.fc1(inner), approximate="tanh")
    expected = expected + gate2 * block.mlp.fc2(inner)

    assert relative_l2(expected, block(x, c)) < 1e-6


def test_the_last_layer_computes_what_the_paper_says() -> None:
    layer = filled(Dit(tiny_dit())).final_layer
    generator = torch.Generator().manual_seed(2)
    x, c = torch.randn(2, 64, 32, generator=generator), torch.randn(2, 32, generator=generator)

    linear = layer.adaLN_modulation[1]
    modulation = functional.linear(functional.silu(c), linear.weight, linear.bias)
    shift, scale = modulation.reshape(2, 2, 1, 32).unbind(1)
    expected = layer.linear(functional.layer_norm(x, [32], eps=1e-6) * (1 + scale) + shift)

    assert relative_l2(expected, layer(x, c)) < 1e-6


@pytest.mark.parametrize("learn_sigma", [True, False])
@pytest.mark.parametrize("input_size", [(16, 16), (8, 24)])
def test_the_output_has_the_latents_shape(learn_sigma: bool, input_size: tuple[int, int]) -> None:
    config = tiny_dit(learn_sigma=learn_sigma, input_size=input_size)
    output = call(filled(Dit(config)))
    assert output.shape == (2, 6 if learn_sigma else 3, *input_size)
    assert torch.isfinite(output).all()


def test_a_model_without_label_dropout_has_no_null_class() -> None:
    assert Dit(tiny_dit(class_dropout_prob=0.0)).y_embedder.embedding_table.num_embeddings == 5
    assert Dit(tiny_dit()).y_embedder.embedding_table.num_embeddings == 6


def test_before_training_the_model_predicts_nothing() -> None:
    """AdaLN-Zero: gates and the last layer start at zero."""
    model = Dit(tiny_dit())
    initialize_for_training(model)
    assert call(model).abs().max() == 0


def test_random_weights_are_the_same_from_the_same_seed() -> None:
    first, again, other = (call(filled(Dit(tiny_dit()), seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert relative_l2(first, other) > 0.1
