"""Gaussian noise, one counter-based stream per image seed.

Image k of a run is the same whatever the batch, the shard, the backend or the machine: its noise
depends on its seed and on the step alone. The PyTorch reference uses the same arrays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .sampler import Latent

START = 0  # the draw that a run starts from; step k takes draw k + 1


def draw_noise(seeds: Sequence[int], draw: int, shape: tuple[int, int, int]) -> Latent:
    """Draw one latent of standard normal noise for each seed.

    Args:
        seeds: One for each image, in [0, 2**64).
        draw: `START` for the noise that a run starts from, ``index + 1`` for that of a step.
        shape: Channel, row and column of a latent.

    Returns:
        float32 [len(seeds), channel, row, column].
    """
    streams = (np.random.Philox(key=np.array([seed, draw], dtype=np.uint64)) for seed in seeds)
    latents = [
        np.random.Generator(stream).standard_normal(shape, dtype=np.float32) for stream in streams
    ]
    return np.stack(latents)
