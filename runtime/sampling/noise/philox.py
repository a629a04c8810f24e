"""Philox4x32-10 (Salmon et al., 2011): random 32-bit words that are computed from where they stand.

A word is a fixed function of a counter and a key, by products and exclusive ors of whole numbers
alone: it is the same on every machine and in every language, and any part of a stream can be drawn
without what is before it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]  # 32 bits each, in words that hold a product of two
Word = Words | np.uint64

ROUNDS = 10
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
WEYL = (0x9E3779B9, 0xBB67AE85)  # what the key grows by in a round: golden ratio, sqrt(3) - 1
MASK, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


def philox(counter: tuple[Word, Word, Word, Word], key: tuple[Word, Word]) -> Words:
    """The four words of each counter under a key.

    Args:
        counter: Words below 2**32 that broadcast to one shape; the first counts fastest.
        key: Two words below 2**32 that broadcast with the counter's.

    Returns:
        uint64 [..., 4], each below 2**32.
    """
    x0, x1, x2, x3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        one, other = x0 * MULTIPLIERS[0], x2 * MULTIPLIERS[1]
        x0, x1 = (other >> HALF) ^ x1 ^ k0, other & MASK
        x2, x3 = (one >> HALF) ^ x3 ^ k1, one & MASK
        k0, k1 = (k0 + np.uint64(WEYL[0])) & MASK, (k1 + np.uint64(WEYL[1])) & MASK
    return np.stack(np.broadcast_arrays(x0, x1, x2, x3), axis=-1)


def halves(number: int) -> tuple[int, int]:
    """The low and the high 32 bits of a number below 2**64."""
    return number & 0xFFFFFFFF, number >> 32
