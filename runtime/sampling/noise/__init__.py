"""Gaussian noise, one counter-based stream per image seed.

Image k of a run is the same whatever the batch, the shard, the backend or the machine: its noise
depends on its seed and on the step alone. The PyTorch reference uses the same arrays.

Number k of a draw comes from word ``k % 4`` of Philox's block ``k // 4``, whose key is the seed and
whose counter is ``(block, 0, draw)``, seed and draw as two 32-bit words each, the low one first.
The word w becomes the normal number that has a share of ``(w + 1/2) / 2**32`` below it, in float64,
and that is rounded to float32. Every operation on the way is exact or correctly rounded, so a
device, another language or a browser draws the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..sampler import Latent
from ..schedule import Visits
from .inverse_normal import inverse_normal
from .philox import halves, philox
from .torch_normal import torch_normal

START = 0  # the draw that a run starts from; step k takes draw k + 1
PORTABLE = "philox4x32-as241"
NUMPY = "numpy-philox-ziggurat"  # of bundles before schema version 4
RULES = (PORTABLE, NUMPY)  # of bundles
TORCH = "torch"  # of a run that asks for it


def draw_noise(
    seeds: Sequence[int], draw: int, shape: tuple[int, int, int], rule: str = PORTABLE
) -> Latent:
    """Draw one latent of standard normal noise for each seed.

    Args:
        seeds: One for each image, in [0, 2**64).
        draw: `START` for the noise that a run starts from, ``index + 1`` for that of a step.
        shape: Channel, row and column of a latent.
        rule: One of `RULES`: `PORTABLE` gives the same bits everywhere; `NUMPY` is its
            ``Generator``'s, whose tails are as its C library rounds them. Or `TORCH`: the draws
            of a CPU generator of the seed, one after the other.

    Returns:
        float32 [len(seeds), channel, row, column].
    """
    draw_one = {NUMPY: _by_numpy, TORCH: _by_torch}.get(rule, _portable)
    return np.stack([draw_one(seed, draw, shape) for seed in seeds])


def draw_start(
    seeds: Sequence[int], schedule: Visits, shape: tuple[int, int, int], rule: str
) -> Latent:
    """The latents that runs start from; the arguments are those of `draw_noise`."""
    return as_start(draw_noise(seeds, START, shape, rule), schedule)


def as_start(noise: Latent, schedule: Visits) -> Latent:
    """Noise of variance 1 as large as a run starts from it."""
    return noise * np.float32(schedule.start)


def _portable(seed: int, draw: int, shape: tuple[int, int, int]) -> Latent:
    size = math.prod(shape)
    block = np.arange(-(-size // 4), dtype=np.uint64)
    key_low, key_high, draw_low, draw_high = map(np.uint64, (*halves(seed), *halves(draw)))
    counter = (block, np.uint64(0), draw_low, draw_high)
    words = philox(counter, (key_low, key_high)).ravel()[:size]
    normal = inverse_normal((words.astype(np.float64) + 0.5) / 2.0**32)
    return normal.astype(np.float32).reshape(shape)


def _by_torch(seed: int, draw: int, shape: tuple[int, int, int]) -> Latent:
    return torch_normal(seed, draw, math.prod(shape)).reshape(shape)


def _by_numpy(seed: int, draw: int, shape: tuple[int, int, int]) -> Latent:
    stream = np.random.Philox(key=np.array([seed, draw], dtype=np.uint64))
    return np.random.Generator(stream).standard_normal(shape, dtype=np.float32)
