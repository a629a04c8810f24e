"""A tiny PiT with random weights, for what needs a real checkpoint."""

from __future__ import annotations

from pathlib import Path

from pitstop.models.checkpoint import Checkpoint, save_checkpoint
from pitstop.models.denoiser import initialize_at_random
from pitstop.models.pit import Pit, PitConfig, PswaConfig

LABELS = ("shirt", "shoe", "bag")


def tiny_checkpoint(path: Path, *, hidden_size: int = 32, channels: int = 1) -> Path:
    """Write a PiT of two blocks for 16 x 16 grey images, or latents of that size."""
    config = PitConfig(
        input_size=(16, 16),
        in_channels=channels,
        cfg_channels=min(channels, 3),
        hidden_size=hidden_size,
        depth=2,
        num_heads=4,
        num_classes=len(LABELS),
        learn_sigma=False,
        pswa=PswaConfig(window_size=4),
    )
    model = Pit(config)
    initialize_at_random(model, 0)
    save_checkpoint(Checkpoint(model, LABELS, "random"), path)
    return path
