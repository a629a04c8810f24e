import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
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
from pitstop.runtime.sampling.samplers.ddim import Ddim
from pitstop.runtime.sampling.samplers.dpmpp_2m import Dpmpp2m
from pitstop.runtime.sampling.schedule import Schedule
from pitstop.runtime.sampling.schedule.betas import Betas
from pitstop.runtime.sampling.schedule.spacing import LINSPACE, Spacing


def dpmpp_2m(steps: int) -> Dpmpp2m:
    return Dpmpp2m(Betas().visit(Spacing(LINSPACE, open_ended=True).timesteps(steps, 1000)))


def walk_diffusers(steps: int) -> list[Latent]:
    scheduler = DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++",
        solver_type="midpoint",
        solver_order=2,
        final_sigmas_type="zero",
        lower_order_final=True,
    )
    scheduler.set_timesteps(steps)

    def step(index: int, latent: Latent, prediction: Prediction, _noise: Latent) -> Latent:
        epsilon, sample = torch.from_numpy(prediction.output), torch.from_numpy(latent)
        after: Latent = scheduler.step(epsilon, scheduler.timesteps[index], sample)[0].numpy()
        return after

    return walk(scheduler.timesteps.tolist(), step, toy_denoiser, start_latent())


# diffusers copies a tensor into an array in a way that NumPy 2 tells torch to mend.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
@pytest.mark.parametrize("steps", [2, 3, 5, 14, 15, 20, 50])  # diffusers' rule changes at 15
def test_every_latent_on_the_way_is_that_of_diffusers(steps: int) -> None:
    for ours, theirs in zip(walk_ours(dpmpp_2m(steps)), walk_diffusers(steps), strict=True):
        assert relative_l2(theirs, ours) <= 1e-5  # diffusers' tables are float32


@pytest.mark.parametrize("steps", [1, 10, 50])
def test_the_true_noise_gives_the_image_back(steps: int) -> None:
    image, noise = draw_noise([1], START, SHAPE), draw_noise([2], START, SHAPE)
    sampler = dpmpp_2m(steps)
    start = noised(image, noise, float(sampler.schedule.alpha_bar[0]))

    found = walk_ours(sampler, lambda _latent, _timestep: Prediction(noise), start)[-1]

    # A float32 rounding of the noise becomes 1 / sqrt(alpha_bar) = 157 times as large at timestep
    # 999: 157 * 6e-8, and a handful of roundings.
    assert relative_l2(image, found) <= 5e-5


def test_the_first_and_the_last_step_are_those_of_ddim() -> None:
    sampler = dpmpp_2m(20)
    ddim = Ddim(sampler.schedule)
    latent = start_latent()
    prediction = toy_denoiser(latent, 500)
    memory = (np.ones_like(latent),)

    for index, kept in [(0, ()), (19, memory)]:
        found, _ = sampler.step(index, latent, prediction, None, kept)
        wanted, _ = ddim.step(index, latent, prediction, None, ())
        assert relative_l2(wanted, found) <= 1e-6  # float32 rounding, of two orders of one sum

    between, _ = sampler.step(10, latent, prediction, None, memory)
    of_first_order, _ = ddim.step(10, latent, prediction, None, ())
    assert relative_l2(of_first_order, between) > 0.01


@pytest.mark.parametrize(("sampler", "fall"), [(Dpmpp2m, 4), (Ddim, 2)])
def test_twice_the_steps_divide_the_error_by_four_where_ddim_divides_by_two(
    sampler: type[Dpmpp2m] | type[Ddim], fall: int
) -> None:
    coarse, fine = error_on_gaussian_images(sampler, 20), error_on_gaussian_images(sampler, 40)
    assert coarse / fine == pytest.approx(fall, rel=0.05)  # the next order is a step of 1/20


def error_on_gaussian_images(sampler: type[Dpmpp2m] | type[Ddim], steps: int) -> float:
    """How far a run over even steps of lambda, -1 to 0, ends from the exact answer.

    Where pixels are Gaussian with deviation 0.5, the best denoiser is linear, and the exact way
    keeps every latent at the same multiple of its level's deviation.
    """
    bars = 1 / (1 + np.exp(-2 * np.linspace(-1, 0, steps + 1)))
    deviations = np.sqrt(0.25 * bars + (1 - bars))

    def denoise(latent: Latent, index: int) -> Prediction:
        return Prediction(float((1 - bars[index]) ** 0.5 / deviations[index] ** 2) * latent)

    start = start_latent()
    found = walk_ours(sampler(Schedule(np.arange(steps), bars[:-1], bars[1:])), denoise, start)[-1]
    return relative_l2(float(deviations[-1] / deviations[0]) * start, found)


def test_it_keeps_the_image_that_it_predicted() -> None:
    sampler = dpmpp_2m(5)
    image, noise = draw_noise([1], START, SHAPE), draw_noise([2], START, SHAPE)
    latent = noised(image, noise, float(sampler.schedule.alpha_bar[2]))

    _, memory = sampler.step(2, latent, Prediction(noise), None, ())

    [kept] = memory
    assert relative_l2(image, kept) <= 1e-5


def test_as_many_steps_as_in_training_visit_a_timestep_twice_and_stay_finite() -> None:
    sampler = dpmpp_2m(1000)
    [twice] = np.flatnonzero(np.diff(sampler.schedule.timesteps) == 0)
    latents = walk_ours(sampler)

    np.testing.assert_array_equal(latents[twice], latents[twice - 1])
    assert np.isfinite(latents[-1]).all()


@given(steps=st.integers(1, 1000), place=st.floats(0, 1))
def test_any_step_is_finite_and_stays_float32(steps: int, place: float) -> None:
    latent = start_latent()
    index = round(place * (steps - 1))
    memory = (latent[::-1],) if index else ()
    moved, (kept,) = dpmpp_2m(steps).step(index, latent, toy_denoiser(latent, 500), None, memory)
    assert moved.dtype == kept.dtype == np.float32
    assert moved.shape == kept.shape == latent.shape
    assert np.isfinite(moved).all()
