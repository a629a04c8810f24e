import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from hypothesis import given
from hypothesis import strategies as st
from sampler_helpers import (
    SHAPE,
    noised,
    perfect_denoiser,
    relative_l2,
    start_latent,
    toy_denoiser,
    walk,
    walk_ours,
)

from pitstop.runtime.sampling.noise import START, draw_noise
from pitstop.runtime.sampling.sampler import Latent, Prediction
from pitstop.runtime.sampling.samplers.dpmpp_2m import Dpmpp2m
from pitstop.runtime.sampling.samplers.dpmpp_2m_sde import Dpmpp2mSde
from pitstop.runtime.sampling.schedule.betas import Betas
from pitstop.runtime.sampling.schedule.spacing import LINSPACE, Spacing
from pitstop.runtime.sampling.step_table import step_table


def dpmpp_2m_sde(steps: int) -> Dpmpp2mSde:
    return Dpmpp2mSde(Betas().visit(Spacing(LINSPACE, open_ended=True).timesteps(steps, 1000)))


def walk_diffusers(steps: int) -> list[Latent]:
    scheduler = DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")
    scheduler.set_timesteps(steps)

    def step(index: int, latent: Latent, prediction: Prediction, noise: Latent) -> Latent:
        after: Latent = scheduler.step(
            torch.from_numpy(prediction.output),
            scheduler.timesteps[index],
            torch.from_numpy(latent),
            variance_noise=torch.from_numpy(noise),
        )[0].numpy()
        return after

    return walk(scheduler.timesteps.tolist(), step, toy_denoiser, start_latent())


# diffusers copies a tensor into an array in a way that NumPy 2 tells torch to mend.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
@pytest.mark.parametrize("steps", [2, 3, 14, 15, 20, 50])  # diffusers' rule changes at 15
def test_every_latent_on_the_way_is_that_of_diffusers(steps: int) -> None:
    for ours, theirs in zip(walk_ours(dpmpp_2m_sde(steps)), walk_diffusers(steps), strict=True):
        assert relative_l2(theirs, ours) <= 1e-5  # diffusers' tables are float32


@pytest.mark.parametrize("steps", [1, 10, 50])
def test_a_denoiser_that_knows_the_image_ends_at_it(steps: int) -> None:
    image, noise = draw_noise([1], START, SHAPE), draw_noise([2], START, SHAPE)
    sampler = dpmpp_2m_sde(steps)
    start = noised(image, noise, float(sampler.schedule.alpha_bar[0]))

    found = walk_ours(sampler, perfect_denoiser(sampler.schedule, image), start)[-1]

    assert relative_l2(image, found) <= 5e-5  # of 157 roundings of the noise at timestep 999


def test_its_noise_makes_up_for_what_it_takes_away_beyond_the_deterministic_rule() -> None:
    sampler = dpmpp_2m_sde(10)
    sure = Dpmpp2m(sampler.schedule)
    nothing = np.zeros((1, 1, 1, 1), np.float32)
    one = nothing + 1

    def alone(rule: Dpmpp2m | Dpmpp2mSde, noise: Latent | None) -> float:
        """The noise in a latent of noise alone, after a step by a denoiser that sees it."""
        epsilon = one * float((1 - sampler.schedule.alpha_bar[4]) ** 0.5)
        moved, _ = rule.step(4, epsilon, Prediction(one), noise, ())
        return float(moved.item())

    fresh = alone(sampler, one) - alone(sampler, nothing)
    assert alone(sampler, nothing) ** 2 + fresh**2 == pytest.approx(alone(sure, None) ** 2)


def test_a_device_draws_it() -> None:
    table = step_table(dpmpp_2m_sde(8), learned_variance=True)
    assert table.stochastic
    assert not table.deviations[:, 0].any()


@given(steps=st.integers(1, 1000), place=st.floats(0, 1))
def test_any_step_is_finite_and_stays_float32(steps: int, place: float) -> None:
    latent = start_latent()
    index = round(place * (steps - 1))
    memory = (latent[::-1],) if index else ()
    prediction = toy_denoiser(latent, 500)
    moved, (kept,) = dpmpp_2m_sde(steps).step(index, latent, prediction, latent, memory)
    assert moved.dtype == kept.dtype == np.float32
    assert moved.shape == kept.shape == latent.shape
    assert np.isfinite(moved).all()
