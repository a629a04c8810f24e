"""The training side of DDPM: noisy images, and the weighted loss of the predicted noise."""

from __future__ import annotations

import torch
from torch import Tensor

from ..denoiser import Denoiser

TRAIN_STEPS = 1000
BETA_START, BETA_END = 1e-4, 0.02
MAX_SNR = 5.0


def alpha_bar() -> Tensor:
    """float32 [1000]: the share of signal at each timestep of the linear-beta schedule."""
    betas = torch.linspace(BETA_START, BETA_END, TRAIN_STEPS, dtype=torch.float64)
    return torch.cumprod(1.0 - betas, dim=0).float()


def epsilon_loss(
    model: Denoiser, images: Tensor, labels: Tensor, signal: Tensor, generator: torch.Generator
) -> Tensor:
    """The squared error of the noise, weighted by min(SNR, 5) / SNR (Hang et al., 2023, eq. 5).

    Args:
        model: The denoiser; labels are dropped at its config's rate.
        images: float32 [batch, channel, row, column] in [-1, 1].
        labels: int64 [batch].
        signal: What `alpha_bar` returned.
        generator: Draws timesteps, noise and the labels that are dropped.
    """
    batch = len(images)
    timesteps = torch.randint(TRAIN_STEPS, (batch,), generator=generator)
    noise = torch.randn(images.shape, generator=generator)
    dropped = torch.rand(batch, generator=generator) < model.config.class_dropout_prob
    labels = torch.where(dropped, model.config.num_classes, labels)

    share = signal[timesteps]
    noisy = share.sqrt().view(-1, 1, 1, 1) * images + (1 - share).sqrt().view(-1, 1, 1, 1) * noise
    snr = share / (1 - share)
    error = (model(noisy, timesteps, labels).float() - noise).square().mean(dim=(1, 2, 3))
    return (error * snr.clamp(max=MAX_SNR) / snr).mean()
