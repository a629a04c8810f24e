from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from model_helpers import call, filled, inputs, pit_configs, relative_l2, tiny_dit, tiny_pit
from pswa_reference import slow_pswa
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from pitstop import ConfigError
from pitstop.models.checkpoint import build_model
from pitstop.models.denoiser import Denoiser
from pitstop.models.dit import Dit
from pitstop.models.pit import (
    KERNELS,
    BridgeConfig,
    HighFrequencyBridge,
    PccaConfig,
    Pit,
    PitConfig,
    PseudoShiftedWindowAttention,
    PswaConfig,
)
from pitstop.models.presets import PRESETS

ALL = PccaConfig("const", (1.0,))
ADD = PswaConfig(window_size=4, merge="add_proj")


def on_meta(preset: str, **fields: Any) -> Denoiser:
    """The network without memory for its weights: for counting."""
    with torch.device("meta"):
        return build_model(replace(PRESETS[preset], **fields))


def mixer(config: PitConfig, block: int = 0) -> PseudoShiftedWindowAttention:
    attention: PseudoShiftedWindowAttention = filled(PseudoShiftedWindowAttention(config, block))
    return attention.double()


def tokens(config: PitConfig) -> Tensor:
    shape = (2, config.tokens, config.hidden_size)
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def reached(config: PitConfig, bridge_idle: bool, row: int, column: int) -> set[tuple[int, int]]:
    """The tokens that change where one token of the input does."""
    attention = mixer(config)
    if bridge_idle:
        for parameter in attention.bridge.parameters():
            torch.nn.init.zeros_(parameter)
    x = tokens(config)
    moved = x.clone()
    moved[:, row * config.grid[1] + column] += 1.0
    with torch.inference_mode():
        changed = (attention(moved) != attention(x)).any(dim=2).any(dim=0)
    return {divmod(index, config.grid[1]) for index in changed.nonzero().ravel().tolist()}


@pytest.mark.parametrize("input_size", [(16, 16), (8, 24)])
def test_pit_with_the_grid_as_its_window_equals_dit(input_size: tuple[int, int]) -> None:
    rows, columns = input_size[0] // 2, input_size[1] // 2
    square = rows == columns
    config = tiny_pit(
        input_size=input_size,
        pcca=ALL,
        pswa=PswaConfig(window_size=rows if square else 4),
        global_layers=() if square else (0, 1, 2, 3),  # a window is square, a grid need not be
    )
    dit = filled(Dit(tiny_dit(input_size=input_size)))
    pit = Pit(config).eval()
    pit.load_state_dict(dit.state_dict())

    assert relative_l2(call(dit), call(pit)) < 1e-5


def test_without_the_bridge_a_token_reaches_its_window_alone() -> None:
    window = {(row, column) for row in range(4, 8) for column in range(0, 4)}
    assert reached(tiny_pit(), True, row=5, column=3) == window


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_bridge_reaches_half_its_kernel_across_the_border(kernel: int) -> None:
    config = tiny_pit(pswa=PswaConfig(window_size=4, bridge=BridgeConfig(kernel=kernel)))
    reach = kernel // 2
    window = {(row, column) for row in range(4, 8) for column in range(0, 4)}
    taps = {
        (row, column)
        for row in range(max(5 - reach, 0), min(5 + reach, 7) + 1)
        for column in range(max(3 - reach, 0), min(3 + reach, 7) + 1)
    }
    assert reached(config, False, row=5, column=3) == window | taps


@settings(max_examples=100)
@given(pit_configs())
def test_the_attention_equals_the_slow_one_that_goes_window_by_window(config: PitConfig) -> None:
    for block in range(config.depth):
        attention, x = mixer(config, block), tokens(config)
        with torch.inference_mode():
            assert relative_l2(slow_pswa(attention, config, x), attention(x)) < 1e-10


@settings(max_examples=30)
@given(pit_configs())
def test_every_config_runs_and_gives_finite_latents(config: PitConfig) -> None:
    output = call(filled(Pit(config)))
    assert output.shape == (2, config.out_channels, *config.input_size)
    assert torch.isfinite(output).all()


@settings(max_examples=60)
@given(pit_configs())
def test_every_config_has_the_keys_and_shapes_of_the_format(config: PitConfig) -> None:
    with torch.device("meta"):
        state = Pit(config).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items() if ".attn." in name}

    expected = {}
    for block in range(config.depth):
        for name, shape in attention_shapes(config, block).items():
            expected[f"blocks.{block}.attn.{name}"] = shape
    assert shapes == expected
    assert {name for name in state if ".attn." not in name} == {
        name for name in Dit(tiny_dit(depth=config.depth)).state_dict() if ".attn." not in name
    }


def attention_shapes(config: PitConfig, block: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a block's attention, as the format's description lists them."""
    pswa, width, kernel = config.pswa, config.hidden_size, config.pswa.bridge.kernel
    heads = config.attention_heads(block)
    attended = heads * config.head_dim
    bridged = width - attended
    outputs = 3 * attended + (bridged if pswa.split == "projected" else 0)
    inputs = width if pswa.split == "projected" else attended
    shapes: dict[str, tuple[int, ...]] = {
        "qkv.weight": (outputs, inputs),
        "qkv.bias": (outputs,),
        "proj.weight": (width, width),
        "proj.bias": (width,),
    }
    if pswa.merge == "add_proj" and block not in config.global_layers:
        bridged = width
    if bridged:
        shapes["bridge.dw.weight"] = (bridged, 1, kernel, kernel)
        shapes["bridge.dw.bias"] = (bridged,)
        if pswa.bridge.kind != "dw":
            shapes["bridge.pw.weight"] = (bridged, bridged, 1, 1)
            shapes["bridge.pw.bias"] = (bridged,)
        if pswa.bridge.norm == "bn":
            for name in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"bridge.norm.{name}"] = (bridged,)
            shapes["bridge.norm.num_batches_tracked"] = ()
    if pswa.rel_pos_bias:
        rows, columns = config.window(block)
        shapes["rel_pos_bias.table"] = ((2 * rows - 1) * (2 * columns - 1), heads)
    if pswa.qk_norm:
        for norm in ("q_norm", "k_norm"):
            shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (config.head_dim,)
    return shapes


@pytest.mark.parametrize(
    ("preset", "millions"),
    [("pit-s-2", 30.61), ("pit-b-2", 121.20), ("pit-l-2", 422.77), ("pit-xl-2", 622.96)],
)
def test_the_sizes_have_the_parameters_they_are_documented_with(
    preset: str, millions: float
) -> None:
    count = sum(parameter.numel() for parameter in on_meta(preset).parameters())
    assert round(count / 1e6, 2) == millions


@pytest.mark.parametrize(
    ("preset", "split", "billions"),
    [
        ("pit-s-2", "input", 4.96),
        ("pit-s-2", "projected", 5.34),
        ("pit-b-2", "input", 19.63),
        ("pit-l-2", "input", 68.99),
        ("pit-xl-2", "input", 101.8),
        ("pit-xl-2", "projected", 110.3),
        ("pit-s-2-512", "input", 19.80),
        ("pit-xl-2-512", "input", 406.4),
    ],
)
def test_the_sizes_multiply_as_often_as_they_are_documented_with(
    preset: str, split: str, billions: float
) -> None:
    model = on_meta(preset, pswa=PswaConfig(split=split))  # type: ignore[arg-type]
    with FlopCounterMode(display=False) as counter:
        model(*(tensor.to("meta") for tensor in inputs(model.config, batch=1)))
    assert counter.get_total_flops() / 2e9 == pytest.approx(billions, rel=1e-3)


@pytest.mark.parametrize(
    ("preset", "heads"),
    [
        ("pit-s-2", [3, 4, 5, 5]),
        ("pit-b-2", [6, 8, 9, 11]),
        ("pit-l-2", [8, 10, 12, 14]),
        ("pit-xl-2", [8, 10, 12, 14]),
    ],
)
def test_the_attention_grows_over_four_stages_of_depth(preset: str, heads: list[int]) -> None:
    config = PRESETS[preset]
    assert isinstance(config, PitConfig)
    stage = config.depth // 4
    expected = [count for count in heads for _ in range(stage)]
    assert [config.attention_heads(block) for block in range(config.depth)] == expected


def test_a_share_below_one_leaves_a_head_on_each_side() -> None:
    config = tiny_pit(pcca=PccaConfig(ratios=(0.01, 0.99)))
    assert [config.attention_heads(block) for block in range(4)] == [1, 1, 3, 3]


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_rotate_lets_every_channel_attend_over_depth(ratio: float) -> None:
    config = tiny_pit(pcca=PccaConfig("rotate", (ratio,)))
    attended = config.attention_heads(0) * config.head_dim
    channels = {
        (config.channel_offset(block) + channel) % config.hidden_size
        for block in range(config.depth)
        for channel in range(attended)
    }
    assert channels == set(range(config.hidden_size))


def test_rotate_is_the_plain_attention_of_rolled_channels() -> None:
    rotated = mixer(tiny_pit(pcca=PccaConfig("rotate", (0.25,))), block=1)
    plain = mixer(tiny_pit(pcca=PccaConfig("const", (0.25,))), block=1)
    assert rotated.offset == 8
    x = tokens(tiny_pit())
    for attention in (rotated, plain):
        torch.nn.init.eye_(attention.proj.weight)
        torch.nn.init.zeros_(attention.proj.bias)

    assert torch.equal(rotated(x), plain(x.roll(-8, dims=2)).roll(8, dims=2))


def test_a_global_layer_attends_with_all_channels_over_the_whole_grid() -> None:
    config = tiny_pit(global_layers=(2,), input_size=(8, 16))
    assert config.attention_heads(2) == config.num_heads
    assert config.window(2) == (4, 8)
    assert config.window(1) == (4, 4)
    assert not hasattr(Pit(config).blocks[2].attn, "bridge")


@pytest.mark.parametrize("kernel", KERNELS)
def test_highpass_is_a_depthwise_kernel_less_its_share_of_the_mean(kernel: int) -> None:
    """What lets a graph pass fold it: exact at the border too, since the mean counts zeros."""
    highpass = filled(HighFrequencyBridge(BridgeConfig(kernel=kernel, highpass=True), 6)).double()
    x = torch.randn(2, 6, 8, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    folded = highpass.dw.weight - 1 / kernel**2
    u = functional.conv2d(x, folded, highpass.dw.bias, padding=kernel // 2, groups=6)

    assert relative_l2(highpass.pw(u), highpass(x)) < 1e-12


@pytest.mark.parametrize(
    "fields",
    [
        {"pswa": replace(ADD), "pcca": ALL},
        {"pswa": replace(ADD, split="projected"), "pcca": ALL},
        {"pswa": PswaConfig(4, split="projected")},
        {"pswa": PswaConfig(4, rel_pos_bias=True)},
        {"pswa": PswaConfig(4, qk_norm=True)},
        {"pswa": PswaConfig(4, bridge=BridgeConfig(norm="bn", act="silu"))},
        {"pswa": PswaConfig(4, bridge=BridgeConfig(highpass=True, act="gelu_tanh"))},
        {"pswa": PswaConfig(4, bridge=BridgeConfig("pool_dw"))},
        {"pswa": PswaConfig(4, bridge=BridgeConfig("dw", kernel=9))},
        {"pcca": PccaConfig("rotate", (0.5,))},
        {"global_layers": (0, 3)},
        {"input_size": (8, 24)},
    ],
    ids=str,
)
def test_each_variant_changes_what_is_predicted(fields: dict[str, Any]) -> None:
    """A field that nothing reads would give the plain model's answer."""
    output = call(filled(Pit(tiny_pit(**fields))))
    plain = call(filled(Pit(tiny_pit(input_size=fields.get("input_size", (16, 16))))))

    assert output.shape == plain.shape
    assert torch.isfinite(output).all()
    if "input_size" not in fields:
        assert relative_l2(plain, output) > 1e-3


def test_relative_position_bias_knows_the_offset_of_two_tokens() -> None:
    attention = mixer(tiny_pit(pswa=PswaConfig(4, rel_pos_bias=True)))
    bias = attention.rel_pos_bias()
    query, key = 2 * 4 + 1, 0 * 4 + 3  # (2, 1) and (0, 3): two down, two to the left

    assert bias.shape == (attention.heads, 16, 16)
    assert torch.equal(bias[:, query, key], attention.rel_pos_bias.table[(2 + 3) * 7 + (-2 + 3)])


def test_a_window_that_does_not_divide_the_grid_says_which_latent_would_do() -> None:
    with pytest.raises(ConfigError, match=r"window of 8 .* 10 x 8 .* multiple of 16 on both"):
        PitConfig(input_size=(20, 16))
