import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from hypothesis import given
from hypothesis import strategies as st
from sampler_helpers import (
    SHAPE,
    noised,
    relative_l2,
    start_latent,
    toy_denoiser,
    walk,
    walk_ours,
)

from pitstop.runtime.sampling.noise import START, draw_noise
from pitstop.runtime.sampling.sampler import Latent, Prediction
from pitstop.runtime.sampling.samplers.unipc import UniPc
from pitstop.runtime.sampling.schedule import Schedule
from pitstop.runtime.sampling.schedule.betas import Betas
from pitstop.runtime.sampling.schedule.spacing import LINSPACE, Spacing
from pitstop.runtime.sampling.step_table import step_table


def unipc(steps: int, order: int = 2) -> UniPc:
    visits = Betas().visit(Spacing(LINSPACE, open_ended=True).timesteps(steps, 1000))
    return UniPc(visits, order=order)


def walk_diffusers(steps: int, order: int) -> list[Latent]:
    scheduler = UniPCMultistepScheduler(solver_order=order)
    scheduler.set_timesteps(steps)

    def step(index: int, latent: Latent, prediction: Prediction, _noise: Latent) -> Latent:
        epsilon, sample = torch.from_numpy(prediction.output), torch.from_numpy(latent)
        after: Latent = scheduler.step(epsilon, scheduler.timesteps[index], sample)[0].numpy()
        return after

    return walk(scheduler.timesteps.tolist(), step, toy_denoiser, start_latent())


# diffusers copies a tensor into an array in a way that NumPy 2 tells torch to mend.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
@pytest.mark.parametrize("steps", [2, 3, 4, 5, 14, 20, 50])
@pytest.mark.parametrize("order", [2, 3])
def test_every_latent_on_the_way_is_that_of_diffusers(order: int, steps: int) -> None:
    theirs = walk_diffusers(steps, order)
    for ours, wanted in zip(walk_ours(unipc(steps, order)), theirs, strict=True):
        assert relative_l2(wanted, ours) <= 1e-5  # diffusers' tables are float32


@pytest.mark.parametrize("steps", [1, 10, 50])
@pytest.mark.parametrize("order", [2, 3])
def test_the_true_noise_gives_the_image_back(order: int, steps: int) -> None:
    image, noise = draw_noise([1], START, SHAPE), draw_noise([2], START, SHAPE)
    sampler = unipc(steps, order)
    start = noised(image, noise, float(sampler.schedule.alpha_bar[0]))

    found = walk_ours(sampler, lambda _latent, _timestep: Prediction(noise), start)[-1]

    # A float32 rounding of the noise becomes 1 / sqrt(alpha_bar) = 157 times as large at timestep
    # 999: 157 * 6e-8, and a handful of roundings.
    assert relative_l2(image, found) <= 5e-5


@pytest.mark.parametrize("order", [2, 3])
def test_twice_the_steps_divide_the_error_by_eight_at_least_before_the_orders_fall(
    order: int,
) -> None:
    coarse, fine = (error_on_gaussian_images(order, steps) for steps in (20, 40))
    assert coarse / fine >= 0.8 * 8  # the next order is a step of 1/20


def error_on_gaussian_images(order: int, steps: int) -> float:
    """How far a run over even steps of lambda, -1 to 0, is from the exact way near its end.

    Where pixels are Gaussian with deviation 0.5, the best denoiser is linear, and the exact way
    keeps every latent at the same multiple of its level's deviation.
    """
    bars = 1 / (1 + np.exp(-2 * np.linspace(-1, 0, steps + 1)))
    deviations = np.sqrt(0.25 * bars + (1 - bars))

    def denoise(latent: Latent, index: float) -> Prediction:
        share = float((1 - bars[int(index)]) ** 0.5 / deviations[int(index)] ** 2)
        return Prediction(share * latent)

    start = start_latent().astype(np.float64)
    schedule = Schedule(np.arange(steps), bars[:-1], bars[1:])
    found = walk_ours(UniPc(schedule, order=order), denoise, start)[-order]  # type: ignore[arg-type]
    return relative_l2(float(deviations[-order] / deviations[0]) * start, found)  # type: ignore[arg-type]


@pytest.mark.parametrize("order", [2, 3])
def test_a_device_draws_it_with_as_many_memories_as_its_order(order: int) -> None:
    assert step_table(unipc(8, order), learned_variance=False).memories == order


@pytest.mark.parametrize("order", [2, 3])
def test_as_many_steps_as_in_training_visit_a_timestep_twice_and_stay_finite(order: int) -> None:
    sampler = unipc(1000, order)
    assert (np.diff(sampler.schedule.timesteps) == 0).any()
    assert np.isfinite(walk_ours(sampler)[-1]).all()


@given(steps=st.integers(1, 1000), place=st.floats(0, 1), order=st.sampled_from([2, 3]))
def test_any_step_is_finite_and_stays_float32(steps: int, place: float, order: int) -> None:
    latent = start_latent()
    index = round(place * (steps - 1))
    memory = (latent[::-1], *[0.5 * latent] * min(index, order - 1)) if index else ()
    prediction = toy_denoiser(latent, 500)
    moved, kept = unipc(steps, order).step(index, latent, prediction, None, memory)
    for each in (moved, *kept):
        assert each.dtype == np.float32
        assert each.shape == latent.shape
        assert np.isfinite(each).all()
