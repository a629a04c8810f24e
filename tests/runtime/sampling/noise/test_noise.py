import hashlib

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from pitstop.runtime.sampling.asked import MAX_SEED
from pitstop.runtime.sampling.noise import NUMPY, START, draw_noise

SHAPE = (4, 8, 8)
SEEDS = st.integers(0, MAX_SEED)
DRAWS = st.integers(0, 1000)


def test_one_latent_for_each_seed() -> None:
    found = draw_noise([3, 1, 2], START, (4, 32, 16))
    assert found.shape == (3, 4, 32, 16)
    assert found.dtype == np.float32


def test_seed_and_draw_give_these_bits_on_every_machine() -> None:
    found = draw_noise([0, MAX_SEED], 1, (1, 1, 3)).reshape(2, 3)
    wanted = [
        ["0x1.56983ep-5", "0x1.8d49f4p+0", "-0x1.9036dap+0"],
        ["0x1.93db72p-2", "-0x1.dac86p-7", "-0x1.0ff894p-1"],
    ]
    assert found.tolist() == [[float.fromhex(number) for number in row] for row in wanted]


def test_a_million_numbers_are_these_bits_on_every_machine() -> None:
    found = draw_noise([7], START, (4, 512, 512))
    assert int((np.abs(found) > 4).sum()) == 65
    assert hashlib.sha256(found.astype("<f4").tobytes()).hexdigest() == (
        "047078d466b962c88746b1350883039df56ffba3c2bfac1079eff9da0d5cbb13"
    )


def test_a_draw_that_is_cut_short_begins_as_the_longer_one() -> None:
    short, long = (draw_noise([5], 2, (1, 1, size)).ravel() for size in (7, 64))
    np.testing.assert_array_equal(short, long[:7])


def test_the_rule_of_older_bundles_is_kept() -> None:
    found = draw_noise([0, MAX_SEED], 1, (1, 1, 3), NUMPY).reshape(2, 3)
    wanted = [[-1.431463, 1.6707169, -0.40272397], [0.47170085, 0.5593483, 0.5266016]]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)  # a last bit is the libm's


@given(seed=SEEDS, others=st.lists(SEEDS, max_size=4), place=st.integers(0, 4), draw=DRAWS)
def test_the_noise_of_a_seed_does_not_depend_on_the_batch_around_it(
    seed: int, others: list[int], place: int, draw: int
) -> None:
    place = min(place, len(others))
    batch = [*others[:place], seed, *others[place:]]
    [alone] = draw_noise([seed], draw, SHAPE)
    np.testing.assert_array_equal(draw_noise(batch, draw, SHAPE)[place], alone)


@given(first=st.tuples(SEEDS, DRAWS), second=st.tuples(SEEDS, DRAWS))
def test_another_seed_or_draw_is_independent_noise(
    first: tuple[int, int], second: tuple[int, int]
) -> None:
    assume(first != second)
    one, other = (draw_noise([seed], draw, SHAPE).ravel() for seed, draw in (first, second))
    # 256 products of mean 0 and deviation 1: their mean deviates by 1/16; this is 7 of that.
    assert abs(float(np.mean(one * other))) < 7 / 16


def test_neighbouring_seeds_and_draws_are_independent() -> None:
    drawn = np.concatenate([draw_noise(range(32), draw, SHAPE) for draw in range(4)])
    products = np.corrcoef(drawn.reshape(len(drawn), -1))
    off_diagonal = products[~np.eye(len(drawn), dtype=bool)]
    assert (
        np.abs(off_diagonal).max() < 6 / 16
    )  # deviation 1/16, 8128 pairs: 6 of it is one in 60000


def test_the_noise_is_standard_normal() -> None:
    drawn = draw_noise(range(1000), START, SHAPE).astype(np.float64)
    # 256,000 values: the k-th moment is found to sqrt((m_2k - m_k^2) / 256000); five of each.
    assert abs(drawn.mean()) < 5 * (1 / 256_000) ** 0.5
    assert abs((drawn**2).mean() - 1) < 5 * (2 / 256_000) ** 0.5
    assert abs((drawn**4).mean() - 3) < 5 * (96 / 256_000) ** 0.5
