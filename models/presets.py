"""The named models: sizes of PiT, DiT and EDT, and the trained demo.

Only ``fashion`` has trained weights. All others are filled from a seed, for benchmarks and
tests, and draw noise.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .. import CheckpointError
from .amm import modulation_of, published_blocks
from .checkpoint import Checkpoint, build_model, load_checkpoint
from .denoiser import DenoiserConfig, initialize_at_random
from .dit import DitConfig
from .edt import EdtConfig
from .pit import BridgeConfig, PitConfig, PswaConfig

WEIGHTS = Path(__file__).parent / "weights"
CLASSIFIER = WEIGHTS / "fashion-classifier.safetensors"
MAX_WINDOW = 8


@dataclass(frozen=True)
class Size:
    """Depth and width of a model."""

    depth: int
    hidden_size: int
    num_heads: int


SIZES = {
    "ti": Size(6, 128, 4),
    "s": Size(12, 384, 6),
    "b": Size(12, 768, 12),
    "l": Size(24, 1024, 16),
    "xl": Size(28, 1152, 16),
}


@dataclass(frozen=True)
class Stages:
    """Attention heads of an EDT's stages on the way down, and blocks of all its stages."""

    heads: tuple[int, ...]
    depths: tuple[int, ...]


EDT_HEAD_SIZE = 52
STAGES = {
    "s": Stages((6, 8, 10), (2, 2, 2, 3, 3)),
    "b": Stages((12, 16, 20), (2, 2, 2, 3, 3)),
    "xl": Stages((18, 24, 30), (6, 4, 4, 7, 7)),
}

FASHION = PitConfig(
    in_channels=1,
    cfg_channels=1,
    depth=SIZES["ti"].depth,
    hidden_size=SIZES["ti"].hidden_size,
    num_heads=SIZES["ti"].num_heads,
    num_classes=10,
    learn_sigma=False,
    pswa=PswaConfig(bridge=BridgeConfig(kernel=5)),
)


def _sizes() -> Iterator[tuple[str, DenoiserConfig]]:
    yield "fashion", FASHION
    for suffix, latent in (("", 32), ("-512", 64)):  # the VAE makes 8 pixels of one
        for name, size in SIZES.items():
            for patch in (2, 4, 8):
                shape = dict(input_size=(latent, latent), patch_size=patch, **vars(size))
                window = min(MAX_WINDOW, latent // patch // 2)
                yield (
                    f"pit-{name}-{patch}{suffix}",
                    PitConfig(**shape, pswa=PswaConfig(window_size=window)),
                )
                if name != "ti":
                    yield f"dit-{name}-{patch}{suffix}", DitConfig(**shape)
        for name, stages in STAGES.items():
            yield f"edt-{name}-2{suffix}", _edt(stages, latent)


def _edt(stages: Stages, latent: int) -> EdtConfig:
    """With the attention modulated as its authors do for a guidance scale of 2 and above."""
    config = EdtConfig(
        input_size=(latent, latent),
        hidden_size=EDT_HEAD_SIZE * stages.heads[0],
        depth=sum(stages.depths),
        num_heads=stages.heads[0],
        stage_heads=stages.heads,
        stage_depths=stages.depths,
    )
    blocks = published_blocks(config.stage_depths, config.grid).guided
    return dataclasses.replace(config, amm=modulation_of(blocks, config.grid))


PRESETS: dict[str, DenoiserConfig] = dict(_sizes())


def load_preset(name: str, seed: int = 0) -> Checkpoint:
    """The model called ``name``: ``fashion`` trained, every other with weights from ``seed``.

    Raises:
        CheckpointError: There is no such preset; the message says which there are.
    """
    if name == "fashion":
        return load_checkpoint(WEIGHTS / "fashion.safetensors")
    if name not in PRESETS:
        raise CheckpointError(f"There is no checkpoint or preset called {name!r}", _suggest(name))
    model = build_model(PRESETS[name])
    initialize_at_random(model, seed)
    return Checkpoint(model.eval(), provenance=f"random weights from seed {seed}, not trained")


def _suggest(name: str) -> str:
    close = difflib.get_close_matches(name.lower(), PRESETS, n=1)
    hint = f"Did you mean {close[0]}? " if close else ""
    return (
        f"{hint}The presets are: fashion, pit-{{ti,s,b,l,xl}}-{{2,4,8}}, "
        "dit-{s,b,l,xl}-{2,4,8} and edt-{s,b,xl}-2, each of these with -512 too"
    )
