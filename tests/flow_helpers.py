"""Velocities for tests of the flow samplers, and the flow schedulers of diffusers on our grid."""

from __future__ import annotations

import numpy as np
import torch
from sampler_helpers import SHAPE, relative_l2, start_latent, walk_ours

from pitstop.runtime.sampling.noise import START, draw_noise
from pitstop.runtime.sampling.sampler import Latent, Prediction, Sampler
from pitstop.runtime.sampling.schedule.flow import LinearFlow

TO_DATA, TO_NOISE = LinearFlow(data_at=1), LinearFlow(data_at=0)  # SiT's time, and REPA's


def toy_velocity(latent: Latent, time: float) -> Prediction:
    """Smooth, and neither linear in the latent nor constant in time."""
    swirl = np.sin(2 * latent + np.roll(latent, 1, axis=-1) + 3 * time)
    return Prediction((swirl + (time - 0.5) * latent).astype(np.float32))


def velocity_between(flow: LinearFlow, image: Latent, noise: Latent) -> Latent:
    """Of the straight line, in the flow's own time."""
    return image - noise if flow.data_at else noise - image


def image_and_noise() -> tuple[Latent, Latent]:
    return draw_noise([1, 2], START, SHAPE), draw_noise([3, 4], START, SHAPE)


def error_on_a_known_path(sampler: Sampler, flow: LinearFlow) -> float:
    """How far a run ends from the answer of ``dx / dt = 3 cos(3 t) x``."""

    def denoise(latent: Latent, time: float) -> Prediction:
        return Prediction((3 * np.cos(3 * time) * latent).astype(np.float32))

    start = start_latent()
    growth = np.exp(np.sin(3.0 * flow.data_at) - np.sin(3.0 * (1 - flow.data_at)))
    return relative_l2(start * growth, walk_ours(sampler, denoise, start)[-1])


def to_torch(array: Latent) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
