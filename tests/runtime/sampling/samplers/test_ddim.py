import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st
from sampler_helpers import (
    SHAPE,
    noise_in,
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
from pitstop.runtime.sampling.samplers.ddim import Ddim
from pitstop.runtime.sampling.schedule.betas import Betas
from pitstop.runtime.sampling.schedule.spacing import leading_timesteps


def ddim(steps: int, eta: float = 0.0) -> Ddim:
    return Ddim(Betas().visit(leading_timesteps(steps, 1000)), eta)


def walk_diffusers(steps: int, eta: float) -> list[Latent]:
    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="leading")
    scheduler.set_timesteps(steps)

    def step(index: int, latent: Latent, prediction: Prediction, noise: Latent) -> Latent:
        epsilon, sample, fresh = map(torch.from_numpy, (prediction.output, latent, noise))
        timestep = int(scheduler.timesteps[index])
        moved = scheduler.step(epsilon, timestep, sample, eta=eta, variance_noise=fresh)
        after: Latent = moved.prev_sample.numpy()
        return after

    return walk(scheduler.timesteps.tolist(), step, toy_denoiser, start_latent())


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 5, 20, 30, 50])  # 30 does not divide 1000
def test_every_latent_on_the_way_is_that_of_diffusers(steps: int, eta: float) -> None:
    for ours, theirs in zip(walk_ours(ddim(steps, eta)), walk_diffusers(steps, eta), strict=True):
        assert relative_l2(theirs, ours) <= 1e-5  # diffusers' tables are float32


@pytest.mark.parametrize("steps", [1, 10, 50])
def test_the_true_noise_gives_the_image_back(steps: int) -> None:
    image, noise = draw_noise([1], START, SHAPE), draw_noise([2], START, SHAPE)
    sampler = ddim(steps)
    start = noised(image, noise, float(sampler.schedule.alpha_bar[0]))

    found = walk_ours(sampler, lambda _latent, _timestep: Prediction(noise), start)[-1]

    # A float32 rounding of the noise becomes 1 / sqrt(alpha_bar) = 130 times as large at timestep
    # 980: 130 * 6e-8, and a handful of roundings.
    assert relative_l2(image, found) <= 5e-5


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_fresh_noise_leaves_every_latent_with_the_noise_of_its_level(eta: float) -> None:
    image = draw_noise(range(100, 164), START, SHAPE)
    sampler = ddim(10, eta)
    bars = sampler.schedule.alpha_bar.tolist()
    start = noised(image, draw_noise(range(200, 264), START, SHAPE), bars[0])

    latents = walk_ours(sampler, perfect_denoiser(sampler.schedule, image), start)

    for latent, alpha_bar in zip(latents[:-1], bars[1:], strict=True):
        # 16384 values: the deviation is found to 1 / sqrt(2 * 16384) = 0.0055; this is 5 of them.
        assert abs(noise_in(latent, image, alpha_bar).std() - 1) < 0.0275
    assert relative_l2(image, latents[-1]) <= 5e-5


def test_eta_says_whether_fresh_noise_is_needed() -> None:
    assert not ddim(5, eta=0.0).stochastic
    assert ddim(5, eta=0.1).stochastic


@given(steps=st.integers(1, 1000), eta=st.floats(0, 1), place=st.floats(0, 1))
def test_any_step_is_finite_and_stays_float32(steps: int, eta: float, place: float) -> None:
    sampler = ddim(steps, eta)
    latent = start_latent()
    moved, memory = sampler.step(
        round(place * (steps - 1)), latent, toy_denoiser(latent, 500), latent[::-1], ()
    )
    assert moved.dtype == np.float32
    assert moved.shape == latent.shape
    assert np.isfinite(moved).all()
    assert memory == ()
