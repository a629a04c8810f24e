import numpy as np
import pytest

from pitstop.runtime.sampling.noise.philox import halves, philox


# Known answers of Random123's philox4x32_10: the counter and key are nought, all ones, and pi.
@pytest.mark.parametrize(
    ("counter", "key", "wanted"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_the_words_are_the_published_ones(
    counter: tuple[int, ...], key: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    c0, c1, c2, c3 = (np.uint64(word) for word in counter)
    k0, k1 = (np.uint64(word) for word in key)

    assert tuple(map(int, philox((c0, c1, c2, c3), (k0, k1)))) == wanted


def test_blocks_are_drawn_together_as_alone() -> None:
    nought, key = np.uint64(0), (np.uint64(3), np.uint64(4))

    together = philox((np.arange(5, dtype=np.uint64), nought, nought, nought), key)

    alone = [philox((np.uint64(block), nought, nought, nought), key) for block in range(5)]
    np.testing.assert_array_equal(together, alone)


def test_a_number_has_a_low_and_a_high_half() -> None:
    assert halves(0x0123456789ABCDEF) == (0x89ABCDEF, 0x01234567)
