"""What ``torch.randn`` draws from a CPU generator, without PyTorch.

A generator of a seed is a Mersenne twister of its low 32 bits. From 16 numbers on, PyTorch fills
float32 tensors by blocks of 16 uniform numbers, whose first eight are the radii and whose others
are the angles of eight pairs (Box and Muller, 1958); where 16 does not divide the size, the last 16
numbers are drawn anew. Below 16, it draws pairs in float64, one after the other, and keeps the
second of a pair for the next number, over the end of a tensor too.

The numbers are PyTorch's to float32's last bits: its logarithm and cosine differ from CPU to CPU.
In float16 and bfloat16, where 16 divides the size, it draws the same numbers and rounds them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Draw = npt.NDArray[np.float32]

BLOCK = 16
TWO_PI = 2 * math.pi
LOW_32 = 0xFFFFFFFF


def torch_normal(seed: int, draw: int, size: int) -> Draw:
    """Of the draws of ``size`` numbers each from a generator of ``seed``, number ``draw``.

    The draws before it are walked through, which is a share of a second for a thousand draws of a
    latent of 32 x 32.

    Args:
        seed: In [0, 2**64).
        draw: From 0.
        size: Of each draw, at least 1.

    Returns:
        float32 [size].
    """
    words = _twister(seed)
    if size < BLOCK:
        return _pairs(words, draw * size, size)
    fresh = size + (BLOCK if size % BLOCK else 0)
    words.random_raw(draw * fresh, output=False)
    uniform = _uniform(words, size)
    whole = size // BLOCK * BLOCK
    drawn = np.empty(size, dtype=np.float32)
    drawn[:whole] = _blocks(uniform[:whole])
    if whole < size:
        drawn[-BLOCK:] = _blocks(_uniform(words, BLOCK))
    return drawn


def _twister(seed: int) -> np.random.MT19937:
    """MT19937 as Matsumoto and Nishimura seed it."""
    legacy = np.random.RandomState(seed & LOW_32).get_state(legacy=False)
    twister = np.random.MT19937()
    twister.state = {"bit_generator": "MT19937", "state": legacy["state"]}
    return twister


def _uniform(words: np.random.MT19937, size: int) -> Draw:
    """float32 [size] in [0, 1), of 24 bits each."""
    drawn: Draw = (words.random_raw(size) & 0xFFFFFF).astype(np.float32) * np.float32(2.0**-24)
    return drawn


def _blocks(uniform: Draw) -> Draw:
    """Normal numbers of whole blocks of uniform ones, rounded to float32 where PyTorch rounds."""
    blocks = uniform.reshape(-1, 2, BLOCK // 2)
    radius = np.sqrt(np.float32(-2) * _rounded(np.log, np.float32(1) - blocks[:, 0]))
    angle = np.float32(TWO_PI) * blocks[:, 1]
    sides = [radius * _rounded(side, angle) for side in (np.cos, np.sin)]
    return np.stack(sides, axis=1).reshape(-1)


def _rounded(
    function: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]], of: Draw
) -> Draw:
    """A function's value to the nearest float32, whatever library it is from."""
    return function(of.astype(np.float64)).astype(np.float32)


def _pairs(words: np.random.MT19937, first: int, size: int) -> Draw:
    """Numbers ``first`` on of those that come in pairs, in float64 and rounded."""
    words.random_raw(4 * (first // 2), output=False)
    pairs = (first % 2 + size + 1) // 2
    high, low = words.random_raw(4 * pairs).reshape(-1, 2).T
    bits = ((high << np.uint64(32)) | low) & np.uint64(2**53 - 1)
    angle, share = (bits.astype(np.float64) * 2.0**-53).reshape(-1, 2).T
    radius, angle = np.sqrt(-2 * np.log1p(-share)), TWO_PI * angle
    normal = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)
    drawn: Draw = normal[first % 2 :][:size].astype(np.float32)
    return drawn
