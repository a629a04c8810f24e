"""What every denoiser here is: patches in, conditioned blocks, patches out.

PiT and DiT differ only in how tokens are mixed inside a block; `Denoiser` is all the rest, and
`DenoiserConfig` is what both configs have in common.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from .. import ConfigError
from .layers import (
    AdaLNBlock,
    FinalLayer,
    LabelEmbedder,
    PatchEmbed,
    TimestepEmbedder,
    sincos_positions,
    unpatchify,
)

PredictionType = Literal["epsilon", "velocity"]
MAX_SIZE = 2**20  # beyond any model: what a damaged file may claim
MAX_DEPTH = 4096  # likewise
BLOCK_NUMBER = re.compile(r"[0-9]{1,6}")  # as files and users write it
MAX_SIDE = 2**14  # latent pixels
MAX_TOKENS = 2**18  # their positions are computed even for a file without them


@dataclass(frozen=True)
class DenoiserConfig:
    """The fields that a PiT and a DiT share; the defaults are the S size at 256 px.

    Attributes:
        input_size: Rows and columns of the latent; ``patch_size`` divides both.
        patch_size: Side of the square of latent pixels that becomes one token.
        in_channels: Channels of the latent.
        hidden_size: Channels of a token, a multiple of 4 and of ``num_heads``.
        depth: Transformer blocks.
        num_heads: Attention heads.
        mlp_ratio: Hidden channels of the MLP over ``hidden_size``.
        num_classes: Classes, without the null class.
        class_dropout_prob: Share of labels dropped in training, in [0, 1). Above 0 the label
            table has one row more, the null class that guidance needs.
        learn_sigma: Predict the variance beside the noise, in as many channels more.
        prediction_type: What the network predicts of a noisy latent.
        data_at: The time of the data where a velocity is predicted, 1 (SiT) or 0 (REPA); noise is
            at the other end. 0 where noise is predicted, at timesteps.
        cfg_channels: How many of the leading output channels guidance acts on (DiT: 3 of 4).
    """

    arch: ClassVar[str]
    tiles: ClassVar[str] = "the patches"  # what must fill both sides of the latent

    input_size: tuple[int, int] = (32, 32)
    patch_size: int = 2
    in_channels: int = 4
    hidden_size: int = 384
    depth: int = 12
    num_heads: int = 6
    mlp_ratio: float = 4.0
    num_classes: int = 1000
    class_dropout_prob: float = 0.1
    learn_sigma: bool = True
    prediction_type: PredictionType = "epsilon"
    data_at: int = 0
    cfg_channels: int = 3

    def __post_init__(self) -> None:
        sizes = ("patch_size", "in_channels", "hidden_size", "depth", "num_heads", "num_classes")
        for name in sizes:
            size = getattr(self, name)
            most = MAX_DEPTH if name == "depth" else MAX_SIZE
            require(1 <= size <= most, f"{name} is {size}", f"1 to {most}")
        require(len(self.input_size) == 2, f"input_size is {self.input_size}", "two numbers")
        for side in self.input_size:
            require(
                1 <= side <= MAX_SIDE and side % self.patch_size == 0,
                f"input_size is {self.input_size}",
                f"a multiple of patch_size {self.patch_size} on both sides, {MAX_SIDE} at most",
            )
        require(
            self.tokens <= MAX_TOKENS,
            f"input_size is {self.input_size}, which are {self.tokens} tokens",
            f"{MAX_TOKENS} tokens at most",
        )
        for divisor, name in ((4, "4"), (self.num_heads, f"num_heads {self.num_heads}")):
            require(
                self.hidden_size % divisor == 0,
                f"hidden_size is {self.hidden_size}",
                f"a multiple of {name}",
            )
        require(
            1 <= self.hidden_size * self.mlp_ratio <= MAX_SIZE,
            f"mlp_ratio is {self.mlp_ratio}",
            f"at least one of hidden_size {self.hidden_size}, and times it {MAX_SIZE} at most",
        )
        require(
            0 <= self.class_dropout_prob < 1,
            f"class_dropout_prob is {self.class_dropout_prob}",
            "in [0, 1)",
        )
        require_one_of("prediction_type", self.prediction_type, get_args(PredictionType))
        require(
            self.data_at == 0 or (self.data_at == 1 and self.prediction_type == "velocity"),
            f"data_at is {self.data_at}",
            "0, or 1 where prediction_type is 'velocity'",
        )
        require(
            1 <= self.cfg_channels <= self.in_channels,
            f"cfg_channels is {self.cfg_channels}",
            f"1 to in_channels {self.in_channels}",
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.input_size[0] // self.patch_size, self.input_size[1] // self.patch_size

    @property
    def divisor(self) -> int:
        """The side in latent pixels of what must tile the latent, which `tiles` names."""
        return self.patch_size

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def out_channels(self) -> int:
        return self.in_channels * (2 if self.learn_sigma else 1)

    @property
    def label_rows(self) -> int:
        """Rows of the label table: the classes, and the null class where there is one."""
        return self.num_classes + (1 if self.class_dropout_prob > 0 else 0)


def require(holds: bool, found: str, expected: str) -> None:
    """Refuse a config: ``hidden_size is 10``, expected ``a multiple of 4``."""
    if not holds:
        raise ConfigError(f"The config's {found}", f"It must be {expected}")


def require_one_of(name: str, value: object, choices: Iterable[object]) -> None:
    names = [str(choice) for choice in choices]
    require(str(value) in names, f"{name} is {value!r}", f"one of: {', '.join(names)}")


class Denoiser(nn.Module):
    """A class-conditional diffusion transformer whose blocks mix tokens with ``mixers``."""

    def __init__(self, config: DenoiserConfig, mixers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.x_embedder = PatchEmbed(config.patch_size, config.in_channels, width)
        self.t_embedder = TimestepEmbedder(width)
        self.y_embedder = LabelEmbedder(config.label_rows, width)
        # A parameter, not a buffer: official checkpoints hold it, and the counts include it.
        self.pos_embed = nn.Parameter(sincos_positions(width, config.grid), requires_grad=False)
        self.blocks = nn.ModuleList(AdaLNBlock(mixer, width, config.mlp_ratio) for mixer in mixers)
        self.final_layer = FinalLayer(width, config.patch_size, config.out_channels)

    def forward(self, latent: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
        """Predict the noise (and variance) or the velocity in a latent.

        Args:
            latent: float32 [batch, in_channels, rows, columns].
            timestep: float32 or int64 [batch], the training timestep (flow models: time in [0, 1]).
            label: int64 [batch], a class in [0, num_classes), or num_classes for none.

        Returns:
            float32 [batch, out_channels, rows, columns].
        """
        config = self.config
        x = self.x_embedder(latent) + self.pos_embed  # (N, T, D)
        c = self.t_embedder(timestep) + self.y_embedder(label)  # (N, D)
        x = self.through_blocks(x, c)  # (N, T, D)
        x = self.final_layer(x, c)  # (N, T, P * P * out_channels)
        return unpatchify(x, config.grid, config.patch_size, config.out_channels)

    def through_blocks(self, x: Tensor, c: Tensor) -> Tensor:
        """The tokens (N, T, D) after all blocks, under the condition (N, D)."""
        for block in self.blocks:
            x = block(x, c)
        return x


def initialize_for_training(model: Denoiser) -> None:
    """Set the weights that DiT starts from: Xavier linears, and zero modulation and output."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    patches = model.x_embedder.proj
    nn.init.xavier_uniform_(patches.weight.view(patches.weight.shape[0], -1))
    nn.init.zeros_(model.get_parameter("x_embedder.proj.bias"))
    nn.init.normal_(model.y_embedder.embedding_table.weight, std=0.02)
    for index in (0, 2):
        nn.init.normal_(model.get_parameter(f"t_embedder.mlp.{index}.weight"), std=0.02)
    for name, parameter in model.named_parameters():
        if "adaLN_modulation" in name or name.startswith("final_layer.linear"):
            nn.init.zeros_(parameter)


@torch.no_grad()
def initialize_at_random(model: nn.Module, seed: int) -> None:
    """Fill every weight from a seed, the modulation too, so that no part of the graph is idle.

    For benchmarks and tests: an adaLN-Zero model that was never trained returns zeros.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith("pos_embed") or not tensor.is_floating_point():
            continue
        fan_in = tensor[0].numel() if tensor.ndim > 1 else 0
        std = fan_in**-0.5 if fan_in else 0.1
        drawn = torch.empty_like(tensor).normal_(std=std, generator=generator)
        if name.endswith("running_var"):
            drawn = 1 + drawn.abs()
        elif "norm" in name and name.endswith("weight"):
            drawn = 1 + drawn
        tensor.copy_(drawn)
