from typing import Literal

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st
from sampler_helpers import (
    SHAPE,
    Denoise,
    noise_in,
    noised,
    perfect_denoiser,
    relative_l2,
    start_latent,
    toy_denoiser,
    toy_denoiser_without_variance,
    walk,
    walk_ours,
)

from pitstop.runtime.sampling.noise import START, draw_noise
from pitstop.runtime.sampling.sampler import Latent, Prediction
from pitstop.runtime.sampling.samplers.ddpm import Ddpm
from pitstop.runtime.sampling.schedule.betas import Betas
from pitstop.runtime.sampling.schedule.spacing import OFFICIAL, Spacing

Fixed = Literal["fixed_small", "fixed_large"]


def ddpm(steps: int, variance: Fixed = "fixed_small") -> Ddpm:
    return Ddpm(Betas().visit(Spacing(OFFICIAL).timesteps(steps, 1000)), variance=variance)


def walk_diffusers(
    sampler: Ddpm, variance_type: str, denoise: Denoise, monkeypatch: pytest.MonkeyPatch
) -> list[Latent]:
    scheduler = DDPMScheduler(variance_type=variance_type, clip_sample=False)
    # Its own table is float32, and 1 - alpha_bar is up to 1.7e-4 off in it: with that, 250 steps
    # end 1.3e-5 away. That its table is ours but for the rounding, test_schedule.py shows.
    scheduler.alphas_cumprod = torch.from_numpy(Betas().alpha_bar())
    scheduler.set_timesteps(timesteps=sampler.schedule.timesteps.tolist())

    def step(index: int, latent: Latent, prediction: Prediction, noise: Latent) -> Latent:
        monkeypatch.setattr(
            "diffusers.schedulers.scheduling_ddpm.randn_tensor",
            lambda *_args, **_kwargs: torch.from_numpy(noise),
        )
        learned = [] if prediction.variance is None else [prediction.variance]
        output = torch.from_numpy(np.concatenate([prediction.output, *learned], axis=1))
        timestep = int(scheduler.timesteps[index])
        after: Latent = scheduler.step(output, timestep, torch.from_numpy(latent))[0].numpy()
        return after

    return walk(scheduler.timesteps.tolist(), step, denoise, start_latent())


@pytest.mark.parametrize("steps", [5, 20, 50, 250])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_every_latent_on_the_way_is_that_of_diffusers_with_a_fixed_variance(
    steps: int, variance: Fixed, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler, denoise = ddpm(steps, variance), toy_denoiser_without_variance
    wanted = walk_diffusers(sampler, variance, denoise, monkeypatch)
    for ours, theirs in zip(walk_ours(sampler, denoise), wanted, strict=True):
        assert relative_l2(theirs, ours) <= 1e-6  # float32 rounding


@pytest.mark.parametrize("steps", [5, 20, 50, 250])
def test_every_latent_on_the_way_is_that_of_diffusers_with_a_learned_variance(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = walk_diffusers(ddpm(steps), "learned_range", toy_denoiser, monkeypatch)
    for ours, theirs in zip(walk_ours(ddpm(steps)), wanted, strict=True):
        assert relative_l2(theirs, ours) <= 1e-6  # float32 rounding


@pytest.mark.parametrize("steps", [3, 25, 250])
def test_every_latent_on_the_way_is_that_of_official_dit(steps: int) -> None:
    sampler = ddpm(steps)
    tables = OfficialTables(sampler.schedule.timesteps[::-1])

    def step(index: int, latent: Latent, prediction: Prediction, noise: Latent) -> Latent:
        return tables.p_sample(steps - 1 - index, latent, prediction, noise)

    wanted = walk(sampler.schedule.timesteps, step, toy_denoiser, start_latent())
    for ours, theirs in zip(walk_ours(sampler), wanted, strict=True):
        # The image comes of another order of operations, and from timestep 999 each rounding counts
        # 157 times; the share of it in the first latent is largest with few steps.
        assert relative_l2(theirs, ours) <= 1e-5


class OfficialTables:
    """GaussianDiffusion of facebookresearch/DiT, its tables and its step, for a learned range.

    Its timesteps rise, it counts them from the clean end, and everything comes from new betas.
    """

    def __init__(self, timesteps: np.ndarray) -> None:
        bars = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[timesteps]
        self.betas = 1 - bars / np.append(1, bars[:-1])
        self.bars = np.cumprod(1 - self.betas)
        before = np.append(1, self.bars[:-1])
        variance = self.betas * (1 - before) / (1 - self.bars)
        self.log_variance_clipped = np.log(np.append(variance[1], variance[1:]))
        self.coef1 = self.betas * np.sqrt(before) / (1 - self.bars)
        self.coef2 = (1 - before) * np.sqrt(1 - self.betas) / (1 - self.bars)

    def p_sample(self, t: int, x: Latent, prediction: Prediction, noise: Latent) -> Latent:
        assert prediction.variance is not None
        frac = (prediction.variance + 1) / 2
        log_variance = frac * np.log(self.betas[t]) + (1 - frac) * self.log_variance_clipped[t]
        x0 = np.sqrt(1 / self.bars[t]) * x - np.sqrt(1 / self.bars[t] - 1) * prediction.output
        mean = self.coef1[t] * x0 + self.coef2[t] * x
        moved: Latent = (mean + (t > 0) * np.exp(0.5 * log_variance) * noise).astype(np.float32)
        return moved


@pytest.mark.parametrize("steps", [1, 10, 50])
def test_the_true_noise_gives_the_image_back(steps: int) -> None:
    image = draw_noise(range(100, 164), START, SHAPE)
    sampler = ddpm(steps)
    bars = sampler.schedule.alpha_bar.tolist()
    start = noised(image, draw_noise(range(200, 264), START, SHAPE), bars[0])

    latents = walk_ours(sampler, perfect_denoiser(sampler.schedule, image), start)

    # A float32 rounding of the noise becomes 1 / sqrt(alpha_bar) = 157 times as large where the
    # only step is from timestep 999: 157 * 6e-8, and a handful of roundings.
    assert relative_l2(image, latents[-1]) <= 5e-5
    for latent, alpha_bar in zip(latents[:-1], bars[1:], strict=True):
        # 16384 values: the deviation is found to 1 / sqrt(2 * 16384) = 0.0055; this is 5 of them.
        assert abs(noise_in(latent, image, alpha_bar).std() - 1) < 0.0275


@pytest.mark.parametrize("steps", [1, 10])
def test_the_last_step_draws_no_noise(steps: int) -> None:
    sampler = ddpm(steps, "fixed_large")
    latent = start_latent()
    prediction = toy_denoiser(latent, 500)
    with_noise, _ = sampler.step(steps - 1, latent, prediction, latent[::-1], ())
    without, _ = sampler.step(steps - 1, latent, prediction, None, ())
    np.testing.assert_array_equal(with_noise, without)


@pytest.mark.parametrize(("learned", "fixed"), [(-1.0, "fixed_small"), (1.0, "fixed_large")])
def test_the_ends_of_the_learned_range_are_the_fixed_variances(
    learned: float, fixed: Fixed
) -> None:
    latent, noise = start_latent(), draw_noise([3, 4], 1, SHAPE)
    epsilon = toy_denoiser(latent, 500).output
    at_the_end = Prediction(epsilon, np.full_like(latent, learned))

    ours, _ = ddpm(50).step(20, latent, at_the_end, noise, ())
    wanted, _ = ddpm(50, fixed).step(20, latent, Prediction(epsilon), noise, ())

    assert relative_l2(wanted, ours) <= 1e-6


@given(
    steps=st.integers(1, 1000),
    place=st.floats(0, 1),
    variance=st.sampled_from(["fixed_small", "fixed_large"]),
    denoise=st.sampled_from([toy_denoiser, toy_denoiser_without_variance]),
)
def test_any_step_is_finite_and_stays_float32(
    steps: int, place: float, variance: Fixed, denoise: Denoise
) -> None:
    latent = start_latent()
    moved, memory = ddpm(steps, variance).step(
        round(place * (steps - 1)), latent, denoise(latent, 500), latent[::-1], ()
    )
    assert moved.dtype == np.float32
    assert moved.shape == latent.shape
    assert np.isfinite(moved).all()
    assert memory == ()
