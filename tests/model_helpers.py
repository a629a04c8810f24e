"""Small models with random weights, inputs for them, and any PiT config at all."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from pitstop.models.denoiser import Denoiser, DenoiserConfig, initialize_at_random
from pitstop.models.dit import DitConfig
from pitstop.models.edt import EdtConfig
from pitstop.models.pit import KERNELS, BridgeConfig, PccaConfig, PitConfig, PswaConfig

TINY: dict[str, Any] = {
    "input_size": (16, 16),
    "in_channels": 3,
    "hidden_size": 32,
    "depth": 4,
    "num_heads": 4,
    "num_classes": 5,
}


def tiny_pit(**fields: Any) -> PitConfig:
    """A PiT of 8 x 8 tokens in windows of 4 x 4, but for ``fields``."""
    return PitConfig(**{**TINY, "pswa": PswaConfig(window_size=4), **fields})


def tiny_dit(**fields: Any) -> DitConfig:
    return DitConfig(**{**TINY, **fields})


def tiny_edt(**fields: Any) -> EdtConfig:
    """An EDT of 8 x 8 tokens that become 4 x 4 and 2 x 2, but for ``fields``."""
    stages = {"stage_heads": (4, 5, 6), "stage_depths": (1, 1, 1, 1, 1), "depth": 5}
    return EdtConfig(**{**TINY, **stages, **fields})


def filled(model: Any, seed: int = 0) -> Any:
    """The model in eval mode, every weight drawn from the seed."""
    initialize_at_random(model, seed)
    return model.eval()


def inputs(config: DenoiserConfig, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Latent, timestep and label for one call."""
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(batch, config.in_channels, *config.input_size, generator=generator)
    return latent, torch.arange(batch) * 300, torch.arange(batch) % config.num_classes


@torch.inference_mode()
def call(model: Denoiser) -> Tensor:
    output: Tensor = model(*inputs(model.config))
    return output


@torch.no_grad()
def relative_l2(reference: Tensor, other: Tensor) -> float:
    return float((other - reference).norm() / reference.norm())


@st.composite
def pit_configs(draw: st.DrawFn) -> PitConfig:
    """Any PiT that is small enough to run: 4 to 16 tokens a side, 1 to 4 heads of 4 channels."""
    window = draw(st.sampled_from([4, 8, 16]))
    windows = draw(
        st.sampled_from({4: [(3, 2), (1, 4)], 8: [(1, 2), (2, 1)], 16: [(1, 1)]}[window])
    )
    patch = draw(st.sampled_from([1, 2]))
    heads = draw(st.integers(1, 4))
    merge = draw(st.sampled_from(["concat_proj", "add_proj"]))
    mode = draw(st.sampled_from(["nested", "rotate", "const"]))
    share = st.sampled_from([0.25, 0.5, 0.7, 1.0])
    ratios = draw(st.lists(share, min_size=1, max_size=3 if mode == "nested" else 1).map(sorted))
    depth = draw(st.integers(1, 3))
    return PitConfig(
        input_size=(windows[0] * window * patch, windows[1] * window * patch),
        patch_size=patch,
        in_channels=draw(st.integers(1, 3)),
        cfg_channels=1,
        hidden_size=4 * heads,
        depth=depth,
        num_heads=heads,
        mlp_ratio=draw(st.sampled_from([1.0, 2.5])),
        num_classes=3,
        class_dropout_prob=draw(st.sampled_from([0.0, 0.1])),
        learn_sigma=draw(st.booleans()),
        pswa=PswaConfig(
            window_size=window,
            split=draw(st.sampled_from(["input", "projected"])),
            merge=merge,
            rel_pos_bias=draw(st.booleans()),
            qk_norm=draw(st.booleans()),
            bridge=BridgeConfig(
                kind=draw(st.sampled_from(["dw", "dwsep", "pool_dw"])),
                kernel=draw(st.sampled_from(KERNELS)),
                norm=draw(st.sampled_from(["none", "bn"])),
                act=draw(st.sampled_from(["none", "gelu_tanh", "silu"])),
                highpass=draw(st.booleans()),
            ),
        ),
        pcca=PccaConfig("const", (1.0,))
        if merge == "add_proj"
        else PccaConfig(mode=mode, ratios=tuple(ratios)),
        global_layers=draw(st.sampled_from([(), (0,), (depth - 1,)])),
    )
