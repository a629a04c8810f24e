"""A toy denoiser, and the loop that walks it with our samplers and with those of diffusers."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from pitstop.runtime.sampling.noise import START, draw_noise
from pitstop.runtime.sampling.sampler import Latent, Memory, Prediction, Sampler
from pitstop.runtime.sampling.schedule import Schedule

SHAPE = (4, 8, 8)
SEEDS = (7, 8)

Denoise = Callable[[Latent, float], Prediction]
Step = Callable[[int, Latent, Prediction, Latent], Latent]


def toy_denoiser(latent: Latent, timestep: float) -> Prediction:
    """Mostly noise when noisy, as a trained model says, and smooth but not linear everywhere.

    Neighbouring pixels count too. The variance runs through nearly all of [-1, 1].
    """
    share = timestep / 1000
    swirl = np.sin(3 * latent + np.roll(latent, 1, axis=-1) + 5 * share)
    return Prediction(
        output=share * latent + 0.2 * (1 - share) * swirl,
        variance=np.sin(2 * latent - 4 * share),
    )


def toy_denoiser_without_variance(latent: Latent, timestep: float) -> Prediction:
    return Prediction(toy_denoiser(latent, timestep).output)


def start_latent() -> Latent:
    return draw_noise(SEEDS, START, SHAPE)


def walk(timesteps: Iterable[float], step: Step, denoise: Denoise, start: Latent) -> list[Latent]:
    """The latents after each step, every step with the same fresh noise whoever walks."""
    latents = [start]
    for index, timestep in enumerate(timesteps):
        noise = draw_noise(range(len(start)), index + 1, SHAPE)
        latent = latents[-1]
        latents.append(step(index, latent, denoise(latent, timestep), noise))
    return latents[1:]


def walk_ours(
    sampler: Sampler, denoise: Denoise = toy_denoiser, start: Latent | None = None
) -> list[Latent]:
    memory: Memory = ()

    def step(index: int, latent: Latent, prediction: Prediction, noise: Latent) -> Latent:
        nonlocal memory
        fresh = noise if sampler.stochastic else None
        moved, memory = sampler.step(index, latent, prediction, fresh, memory)
        return moved

    start = start_latent() if start is None else start
    return walk(sampler.schedule.timesteps.tolist(), step, denoise, start)


def relative_l2(reference: Latent, other: Latent) -> float:
    """How far ``other`` is from ``reference``, as a share of it, in float64."""
    wanted = reference.astype(np.float64)
    return float(np.linalg.norm(other - wanted) / np.linalg.norm(wanted))


def noised(image: Latent, noise: Latent, alpha_bar: float) -> Latent:
    """``image`` with so much noise that a share ``alpha_bar`` of it is left."""
    latent: Latent = alpha_bar**0.5 * image + (1 - alpha_bar) ** 0.5 * noise
    return latent


def noise_in(latent: Latent, image: Latent, alpha_bar: float) -> Latent:
    """The noise that makes ``latent`` of ``image``: what a perfect denoiser says."""
    noise: Latent = (latent - alpha_bar**0.5 * image) / (1 - alpha_bar) ** 0.5
    return noise


def perfect_denoiser(schedule: Schedule, image: Latent) -> Denoise:
    """The denoiser that knows the image, and so the true noise of any latent."""
    bars = dict(zip(schedule.timesteps.tolist(), schedule.alpha_bar.tolist(), strict=True))
    return lambda latent, timestep: Prediction(noise_in(latent, image, bars[int(timestep)]))
