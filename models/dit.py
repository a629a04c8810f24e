"""DiT (Peebles & Xie, 2022), with the official keys: the yardstick that PiT must equal.

A PiT whose window is the grid, whose ratio is 1 and which so has no bridge computes the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from .amm import AmmConfig, attention_modulation, check_amm
from .denoiser import MAX_SIZE, Denoiser, DenoiserConfig, require
from .layers import timestep_frequencies


@dataclass(frozen=True)
class DitConfig(DenoiserConfig):
    """The shape of a DiT.

    Attributes:
        timestep_divisor: The timestep's i-th frequency is ``10000 ** (-i / timestep_divisor)``:
            128 in the official code, 127 in diffusers.
        mlp_norm_eps: Epsilon of the norm before each MLP: 1e-6 in the official code.
        amm: EDT's modulation of the attention, which is no part of the weights.
    """

    arch: ClassVar[str] = "dit"

    timestep_divisor: int = 128
    mlp_norm_eps: float = 1e-6
    amm: AmmConfig = field(default_factory=AmmConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            1 <= self.timestep_divisor <= MAX_SIZE,
            f"timestep_divisor is {self.timestep_divisor}",
            f"1 to {MAX_SIZE}",
        )
        require(0 < self.mlp_norm_eps < 1, f"mlp_norm_eps is {self.mlp_norm_eps}", "in (0, 1)")
        check_amm(self.amm, self, [self.grid] * self.depth)


class Attention(nn.Module):
    """Multi-head self-attention over all tokens: (N, T, D) to itself."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        rel_pos_bias: nn.Module | None = None,
        amm: Tensor | None = None,
    ) -> None:
        """Make the layers.

        Args:
            hidden_size: D.
            num_heads: H.
            rel_pos_bias: Makes what is added to the scores, (H, T, T).
            amm: What the softmax is multiplied by, (1, 1, T, T).
        """
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.rel_pos_bias = rel_pos_bias
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.register_buffer("amm", amm, persistent=False)
        self.amm: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        _, tokens, width = x.shape
        head_dim = width // self.num_heads
        qkv = self.qkv(x).reshape(-1, tokens, 3, self.num_heads, head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (N, H, T, head_dim)
        scores = (q * head_dim**-0.5) @ k.transpose(-2, -1)  # (N, H, T, T)
        if self.rel_pos_bias is not None:
            scores = scores + self.rel_pos_bias()
        weights = scores.softmax(dim=-1)
        if self.amm is not None:
            weights = weights * self.amm
        return self.proj((weights @ v).transpose(1, 2).reshape(-1, tokens, width))


class Dit(Denoiser):
    """The DiT denoiser."""

    def __init__(self, config: DitConfig) -> None:
        super().__init__(config, (build_attention(config, index) for index in range(config.depth)))
        self.t_embedder.frequencies = timestep_frequencies(config.timestep_divisor)
        for name, module in self.named_modules():
            if name.endswith(".norm2"):
                module.eps = config.mlp_norm_eps


def build_attention(config: DitConfig, block: int) -> Attention:
    amm = None
    if block in config.amm.blocks:
        amm = attention_modulation(config.grid[0], config.amm.form)
    return Attention(config.hidden_size, config.num_heads, amm=amm)
