"""The sampling loop: from noise to a latent, one denoiser call a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ... import NonFiniteError
from .noise import START, draw_noise
from .sampler import Latent, Memory, Prediction, Sampler

Denoise = Callable[[Latent, float], Prediction]
"""From a latent [image, channel, row, column] and a timestep to its noise or velocity."""


def walk(
    denoise: Denoise, sampler: Sampler, seeds: Sequence[int], shape: tuple[int, int, int]
) -> Iterator[Latent]:
    """Go from the seeds' noise to clean latents, giving the latent after every step.

    Args:
        denoise: The denoiser, with labels and guidance in it.
        sampler: The rule, and the timesteps that it visits.
        seeds: One for each image.
        shape: Channel, row and column of a latent.

    Raises:
        NonFiniteError: A latent left the finite numbers; the message names the step.
    """
    latent = draw_noise(seeds, START, shape)
    memory: Memory = ()
    for index, timestep in enumerate(sampler.schedule.timesteps):
        noise = draw_noise(seeds, index + 1, shape) if sampler.stochastic else None
        with np.errstate(over="ignore", invalid="ignore"):  # told below, in one line
            prediction = denoise(latent, float(timestep))
            latent, memory = sampler.step(index, latent, prediction, noise, memory)
        if not np.isfinite(latent).all():
            raise NonFiniteError(
                f"Step {index + 1} of {sampler.schedule.steps} (timestep {timestep:g}) gave a "
                "latent that is not finite",
                "Try `--precision fp32` and a lower `--cfg-scale`; `pitstop compare` shows where "
                "the bundle leaves PyTorch",
            )
        yield latent
