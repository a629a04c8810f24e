"""PiT, the Pseudo Progressive Diffusion Transformer: its config, its attention and the model.

PSWA (pseudo shifted window attention) runs window attention on some channels of the tokens and
a high-frequency bridge, a depthwise convolution over the whole grid, on the others. The bridge's
taps cross the windows' borders: it does the work of Swin's shift without a shift. PCCA
(progressive coverage channel allocation) says which channels attend in which block.

A reconstruction: the paper (arXiv 2505.13219) is public, the authors' code and weights are not.
Fixed in this format: sin-cos positions, a bridge of stride 1 with zero padding, and channels
allotted in whole heads.
Letters: N batch, T tokens, D channels, R rows, C columns of the grid, H heads, w window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from .. import ConfigError
from .denoiser import Denoiser, DenoiserConfig, require, require_one_of
from .layers import relative_places

BridgeKind = Literal["dw", "dwsep", "pool_dw"]
BridgeNorm = Literal["none", "bn"]
BridgeAct = Literal["none", "gelu_tanh", "silu"]
Split = Literal["input", "projected"]
Merge = Literal["concat_proj", "add_proj"]
PccaMode = Literal["nested", "rotate", "const"]
KERNELS = (3, 5, 7, 9)


@dataclass(frozen=True)
class BridgeConfig:
    """The high-frequency bridging branch.

    Attributes:
        kind: ``dw``, a depthwise convolution; ``dwsep``, the same with a pointwise one after it;
            ``pool_dw``, a max-pool of the same kernel before ``dwsep``.
        kernel: Taps along one side.
        norm: BatchNorm after the depthwise convolution, or none.
        act: Activation after the norm, or none.
        highpass: Subtract the mean of the input's ``kernel`` x ``kernel`` surroundings (zeros
            outside the grid counted) from the depthwise convolution's output.
    """

    kind: BridgeKind = "dwsep"
    kernel: int = 3
    norm: BridgeNorm = "none"
    act: BridgeAct = "none"
    highpass: bool = False

    def __post_init__(self) -> None:
        require_one_of("pswa.bridge.kind", self.kind, get_args(BridgeKind))
        require_one_of("pswa.bridge.kernel", self.kernel, KERNELS)
        require_one_of("pswa.bridge.norm", self.norm, get_args(BridgeNorm))
        require_one_of("pswa.bridge.act", self.act, get_args(BridgeAct))


@dataclass(frozen=True)
class PswaConfig:
    """Pseudo shifted window attention.

    Attributes:
        window_size: Tokens along one side of a window; it divides both sides of the grid.
        split: ``input`` takes the channels as they come; ``projected`` mixes them in one linear
            that makes q, k, v and the bridge's input together.
        merge: ``concat_proj`` puts both branches' channels side by side before the output
            projection; ``add_proj`` attends with all channels and adds the bridge of v (LePE).
        rel_pos_bias: Add a learned bias per head and relative position to the scores.
        qk_norm: Normalise q and k per head.
        bridge: The bridging branch.
    """

    window_size: int = 8
    split: Split = "input"
    merge: Merge = "concat_proj"
    rel_pos_bias: bool = False
    qk_norm: bool = False
    bridge: BridgeConfig = field(default_factory=BridgeConfig)

    def __post_init__(self) -> None:
        require(self.window_size >= 1, f"pswa.window_size is {self.window_size}", "at least 1")
        require_one_of("pswa.split", self.split, get_args(Split))
        require_one_of("pswa.merge", self.merge, get_args(Merge))


@dataclass(frozen=True)
class PccaConfig:
    """Progressive coverage channel allocation: which share of the heads attends in which block.

    Attributes:
        mode: ``nested`` lets a prefix of the channels grow with depth; ``rotate`` moves a slice
            of constant width around the channels, block by block; ``const`` keeps one prefix.
        ratios: The share of heads that attend, in (0, 1], for each of so many equal stages of
            depth; one number where the mode is not ``nested``.
    """

    mode: PccaMode = "nested"
    ratios: tuple[float, ...] = (0.5, 0.625, 0.75, 0.875)

    def __post_init__(self) -> None:
        require_one_of("pcca.mode", self.mode, get_args(PccaMode))
        require(
            len(self.ratios) > 0 and all(0 < ratio <= 1 for ratio in self.ratios),
            f"pcca.ratios is {self.ratios}",
            "one or more numbers in (0, 1]",
        )
        require(
            list(self.ratios) == sorted(self.ratios),
            f"pcca.ratios is {self.ratios}",
            "in rising order",
        )
        require(
            self.mode == "nested" or len(self.ratios) == 1,
            f"pcca.ratios is {self.ratios}",
            f"one number where pcca.mode is {self.mode!r}",
        )


@dataclass(frozen=True)
class PitConfig(DenoiserConfig):
    """The shape of a PiT.

    Attributes:
        pswa: How a block mixes tokens.
        pcca: Which channels attend where.
        global_layers: Blocks, counted from 0, that attend with all channels over the whole grid.
    """

    arch: ClassVar[str] = "pit"
    tiles: ClassVar[str] = "PiT's windows"

    pswa: PswaConfig = field(default_factory=PswaConfig)
    pcca: PccaConfig = field(default_factory=PccaConfig)
    global_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        window = self.pswa.window_size
        for side in self.grid:
            if side % window:
                raise ConfigError(
                    f"The window of {window} tokens does not divide the grid of {self.grid[0]} x "
                    f"{self.grid[1]} tokens (latent {self.input_size[0]} x {self.input_size[1]}, "
                    f"patch {self.patch_size})",
                    f"Choose a latent size that is a multiple of {window * self.patch_size} on "
                    "both sides, or another pswa.window_size",
                )
        require(
            self.pswa.merge == "concat_proj" or self.pcca.ratios == (1.0,),
            f"pcca.ratios is {self.pcca.ratios}",
            "(1.0,) where pswa.merge is 'add_proj': all channels attend",
        )
        require(
            all(0 <= index < self.depth for index in self.global_layers),
            f"global_layers is {self.global_layers}",
            f"block indices from 0 to {self.depth - 1}",
        )

    @property
    def divisor(self) -> int:
        return self.patch_size * self.pswa.window_size

    def attention_heads(self, block: int) -> int:
        """Heads that attend in ``block``: whole heads, at least one, all only where ratio is 1."""
        if block in self.global_layers:
            return self.num_heads
        ratios = self.pcca.ratios
        ratio = ratios[block * len(ratios) // self.depth]
        if ratio == 1.0:
            return self.num_heads
        heads = math.floor(ratio * self.num_heads + 0.5)
        return min(max(heads, 1), max(self.num_heads - 1, 1))

    def channel_offset(self, block: int) -> int:
        """First attending channel of ``block``: 0, but in ``rotate`` where the last one ended."""
        if self.pcca.mode != "rotate" or block in self.global_layers:
            return 0
        return block * self.attention_heads(block) % self.num_heads * self.head_dim

    def window(self, block: int) -> tuple[int, int]:
        """Rows and columns of the attention window of ``block``, in tokens."""
        if block in self.global_layers:
            return self.grid
        return self.pswa.window_size, self.pswa.window_size


class RelativePositionBias(nn.Module):
    """One learned number per head and offset between two tokens of a window (Swin)."""

    def __init__(self, window: tuple[int, int], heads: int) -> None:
        super().__init__()
        rows, columns = window
        self.table = nn.Parameter(torch.zeros((2 * rows - 1) * (2 * columns - 1), heads))
        self.register_buffer("index", relative_places(window), persistent=False)
        self.index: Tensor

    def forward(self) -> Tensor:
        return self.table[self.index].permute(2, 0, 1)  # (H, w * w, w * w)


class HighFrequencyBridge(nn.Module):
    """A depthwise convolution over the whole grid of tokens: (N, channels, R, C) to itself."""

    def __init__(self, config: BridgeConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        kernel = config.kernel
        self.dw = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        if config.norm == "bn":
            self.norm = nn.BatchNorm2d(channels)
        if config.kind != "dw":
            self.pw = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        config = self.config
        if config.kind == "pool_dw":
            x = functional.max_pool2d(x, config.kernel, stride=1, padding=config.kernel // 2)
        u = self.dw(x)
        if config.highpass:
            u = u - functional.avg_pool2d(x, config.kernel, stride=1, padding=config.kernel // 2)
        if config.norm == "bn":
            u = self.norm(u)
        if config.act == "gelu_tanh":
            u = functional.gelu(u, approximate="tanh")
        elif config.act == "silu":
            u = functional.silu(u)
        return u if config.kind == "dw" else self.pw(u)


class PseudoShiftedWindowAttention(nn.Module):
    """PSWA of one block: (N, T, D) to itself."""

    def __init__(self, config: PitConfig, block: int) -> None:
        super().__init__()
        pswa, width = config.pswa, config.hidden_size
        self.grid = config.grid
        self.window = config.window(block)
        self.heads = config.attention_heads(block)
        self.head_dim = config.head_dim
        self.split, self.merge = pswa.split, pswa.merge
        self.offset = config.channel_offset(block)
        self.attended = self.heads * self.head_dim
        self.bridged = width - self.attended

        projected = self.split == "projected"
        self.qkv = nn.Linear(
            width if projected else self.attended,
            3 * self.attended + (self.bridged if projected else 0),
        )
        if pswa.qk_norm:
            self.q_norm = nn.LayerNorm(self.head_dim, eps=1e-6)
            self.k_norm = nn.LayerNorm(self.head_dim, eps=1e-6)
        if pswa.rel_pos_bias:
            self.rel_pos_bias = RelativePositionBias(self.window, self.heads)
        bridge_channels = width if self.adds_bridge(config, block) else self.bridged
        if bridge_channels:
            self.bridge = HighFrequencyBridge(pswa.bridge, bridge_channels)
        self.proj = nn.Linear(width, width)

    @staticmethod
    def adds_bridge(config: PitConfig, block: int) -> bool:
        return config.pswa.merge == "add_proj" and block not in config.global_layers

    def forward(self, x: Tensor) -> Tensor:
        if self.offset:
            x = x.roll(-self.offset, dims=2)
        if not self.bridged:
            qkv = self.qkv(x)  # (N, T, 3D)
        elif self.split == "projected":
            qkv, x_b = self.qkv(x).split([3 * self.attended, self.bridged], dim=2)
        else:
            x_w, x_b = x.split([self.attended, self.bridged], dim=2)
            qkv = self.qkv(x_w)
        y = self.attend(qkv)  # (N, T, attended)
        if self.bridged:
            y = torch.cat([y, self.on_grid(x_b)], dim=2)  # (N, T, D)
        elif hasattr(self, "bridge"):
            y = y + self.on_grid(qkv[:, :, 2 * self.attended :])
        if self.offset:
            y = y.roll(self.offset, dims=2)
        return self.proj(y)

    def attend(self, qkv: Tensor) -> Tensor:
        """Attention inside each window: (N, T, 3 * attended) to (N, T, attended)."""
        (rows, columns), (down, right) = self.grid, self.window
        heads, dim = self.heads, self.head_dim
        # Plain matmuls: on CPUs their backward is faster than scaled_dot_product_attention's.
        qkv = qkv.reshape(-1, rows // down, down, columns // right, right, 3, heads, dim)
        q, k, v = qkv.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(
            3, -1, heads, down * right, dim
        )  # each (N * windows, H, w * w, dim)
        if hasattr(self, "q_norm"):
            q, k = self.q_norm(q), self.k_norm(k)
        scores = (q * dim**-0.5) @ k.transpose(-2, -1)  # (N * windows, H, w * w, w * w)
        if hasattr(self, "rel_pos_bias"):
            scores = scores + self.rel_pos_bias()
        y = scores.softmax(dim=-1) @ v
        y = y.reshape(-1, rows // down, columns // right, heads, down, right, dim)
        return y.permute(0, 1, 4, 2, 5, 3, 6).reshape(-1, rows * columns, heads * dim)

    def on_grid(self, tokens: Tensor) -> Tensor:
        """The bridge over tokens in row-major order: (N, T, channels) to itself."""
        x = tokens.transpose(1, 2).unflatten(2, self.grid)  # (N, channels, R, C)
        return self.bridge(x).flatten(2).transpose(1, 2)


class Pit(Denoiser):
    """The PiT denoiser."""

    def __init__(self, config: PitConfig) -> None:
        super().__init__(
            config,
            (PseudoShiftedWindowAttention(config, block) for block in range(config.depth)),
        )
