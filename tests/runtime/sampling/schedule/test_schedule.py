from collections.abc import Callable

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from pitstop import OptionError
from pitstop.runtime.sampling.schedule import Timesteps
from pitstop.runtime.sampling.schedule.betas import Betas
from pitstop.runtime.sampling.schedule.flow import LinearFlow
from pitstop.runtime.sampling.schedule.spacing import (
    LEADING,
    LINSPACE,
    OFFICIAL,
    TRAILING,
    Spacing,
)

Spread = Callable[[int, int], Timesteps]

official_timesteps, leading_timesteps, linspace_timesteps, trailing_timesteps = (
    Spacing(name).timesteps for name in (OFFICIAL, LEADING, LINSPACE, TRAILING)
)
open_timesteps = Spacing(LINSPACE, open_ended=True).timesteps
SPREADS = {
    "official": official_timesteps,
    "leading": leading_timesteps,
    "linspace": linspace_timesteps,
    "trailing": trailing_timesteps,
    "open": open_timesteps,
}

ALL_SPREADS = pytest.mark.parametrize("spread", SPREADS.values(), ids=SPREADS.keys())


def test_alpha_bar_is_the_product_of_what_the_betas_leave() -> None:
    found = Betas(train_steps=3, beta_start=0.1, beta_end=0.3).alpha_bar()
    np.testing.assert_allclose(found, [0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7], rtol=1e-15)


def test_the_default_is_what_dit_was_trained_with() -> None:
    found = Betas().alpha_bar()
    assert found.dtype == np.float64
    assert len(found) == 1000
    assert found[0] == pytest.approx(0.9999, rel=1e-12)
    assert found[999] == pytest.approx(4.0358e-5, rel=1e-5)  # as many digits as are known


def test_alpha_bar_is_that_of_diffusers() -> None:
    theirs = DDPMScheduler().alphas_cumprod
    assert theirs.dtype == torch.float32
    # A thousand float32 products, each rounded by up to 6e-8.
    np.testing.assert_allclose(Betas().alpha_bar(), theirs.numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    ("steps", "first", "last"),
    [
        (250, [999, 995], [12, 8, 4, 0]),
        (50, [999, 979], [61, 41, 20, 0]),
        (25, [999, 957], [125, 83, 42, 0]),
        (2, [999], [0]),
        (1, [999], [999]),
    ],
)
def test_the_timesteps_of_ddpm_are_those_of_official_dit(
    steps: int, first: list[int], last: list[int]
) -> None:
    found = official_timesteps(steps, 1000).tolist()
    assert found[: len(first)] == first
    assert found[-len(last) :] == last


def test_a_half_is_rounded_to_the_even_timestep() -> None:
    assert official_timesteps(3, 6).tolist() == [5, 2, 0]  # 2.5
    assert official_timesteps(3, 8).tolist() == [7, 4, 0]  # 3.5


def test_the_betas_between_250_timesteps_are_those_of_official_dit() -> None:
    schedule = Betas().visit(official_timesteps(250, 1000))
    bars = np.append(schedule.alpha_bar, schedule.after[-1])
    betas = (1 - bars[:-1] / bars[1:])[::-1]
    assert betas[0] == pytest.approx(1e-4, rel=1e-9)
    assert betas[1] == pytest.approx(5.9907e-4, rel=1e-5)  # as many digits as are known
    assert betas[249] == pytest.approx(0.0775193, rel=1e-6)


def test_leading_timesteps_keep_a_whole_stride() -> None:
    assert leading_timesteps(50, 1000).tolist() == list(range(980, -1, -20))
    assert leading_timesteps(3, 1000).tolist() == [666, 333, 0]
    assert leading_timesteps(2, 1000).tolist() == [500, 0]


def test_open_timesteps_leave_out_the_cleanest() -> None:
    assert open_timesteps(4, 1000).tolist() == [999, 749, 500, 250]  # 749.25, 499.5, 249.75
    assert open_timesteps(1, 1000).tolist() == [999]


@ALL_SPREADS
@given(steps=st.integers(1, 999))
def test_timesteps_fall_and_stay_in_range(spread: Spread, steps: int) -> None:
    found = spread(steps, 1000)
    assert found.dtype == np.int64
    assert len(found) == steps
    assert (np.diff(found) < 0).all()
    assert 0 <= found[-1] <= found[0] <= 999


@pytest.mark.parametrize("spread", [official_timesteps, leading_timesteps])
def test_as_many_steps_as_in_training_visit_every_timestep(spread: Spread) -> None:
    assert spread(1000, 1000).tolist() == list(range(999, -1, -1))


def test_as_many_open_steps_as_in_training_visit_one_timestep_twice() -> None:
    """There are only 999 timesteps without 0; diffusers repeats 500 here too."""
    found = open_timesteps(1000, 1000).tolist()
    assert sorted([*range(1, 1000), 500], reverse=True) == found


@ALL_SPREADS
@given(steps=st.integers(1, 1000))
def test_a_schedule_brings_back_more_of_the_image_at_every_step(spread: Spread, steps: int) -> None:
    schedule = Betas().visit(spread(steps, 1000))
    assert schedule.steps == steps
    assert len(schedule.alpha_bar) == len(schedule.after) == steps
    assert schedule.alpha_bar.dtype == schedule.after.dtype == np.float64
    risen = schedule.after > schedule.alpha_bar
    assert (risen[:-1] == (np.diff(schedule.timesteps) < 0)).all()
    assert risen[-1]
    assert schedule.alpha_bar[0] > 0
    assert schedule.after[-1] == 1


@ALL_SPREADS
@pytest.mark.parametrize("steps", [0, 1001, -1])
def test_a_step_count_that_does_not_fit_is_told_with_both_numbers(
    spread: Spread, steps: int
) -> None:
    with pytest.raises(OptionError) as told:
        spread(steps, 1000)
    assert told.value.problem == f"{steps} sampling steps were asked for"
    assert "1 to 1000 steps" in told.value.remedy


@pytest.mark.parametrize("training", [Betas(), LinearFlow(0), LinearFlow(1)], ids=str)
def test_what_a_model_may_be_fed_is_spread_from_0_to_the_last(
    training: Betas | LinearFlow,
) -> None:
    spread = training.spread(5)
    assert (spread[0], spread[-1]) == (0, training.last_timestep)
    assert (np.diff(spread) > 0).all()


def test_the_noise_level_rises_from_the_data() -> None:
    times = np.array([0.0, 0.25, 1.0])
    assert LinearFlow(0).noise_level(times).tolist() == [0, 0.25, 1]
    assert LinearFlow(1).noise_level(times).tolist() == [1, 0.75, 0]
    assert Betas().noise_level(np.array([0, 125, 999])).tolist() == [0, 0.125, 0.999]


@pytest.mark.parametrize(
    ("data_at", "times"), [(1, [0, 0.25, 0.5, 0.75]), (0, [1, 0.75, 0.5, 0.25])]
)
def test_a_flow_is_visited_from_the_noise_to_the_data(data_at: int, times: list[float]) -> None:
    schedule = LinearFlow(data_at).visit(4)
    assert schedule.timesteps.tolist() == times
    assert schedule.grid.tolist() == [*times, data_at]
    assert schedule.grid.dtype == np.float64


def official_respacing(steps: int, train_steps: int) -> list[int]:
    """ADM's rule, as its ``space_timesteps`` goes through one section."""
    stride = (train_steps - 1) / (steps - 1)
    taken, current = [], 0.0
    for _ in range(steps):
        taken.append(round(current))
        current += stride
    return taken[::-1]


def test_respacing_is_the_official_one_for_every_count() -> None:
    for steps in range(2, 1001):
        assert official_timesteps(steps, 1000).tolist() == official_respacing(steps, 1000)


@ALL_SPREADS
def test_a_single_step_is_where_only_noise_is(spread: Spread) -> None:
    assert spread(1, 1000).tolist() == [999]
