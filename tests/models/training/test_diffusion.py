from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from model_helpers import tiny_pit
from torch import Tensor, nn

from pitstop.models.denoiser import DenoiserConfig
from pitstop.models.training.diffusion import MAX_SNR, alpha_bar, epsilon_loss

IMAGES = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
LABELS = torch.arange(64) % 5


class Oracle(nn.Module):
    """Knows the images, so tells the noise, off by ``error``; remembers what it was asked."""

    def __init__(self, config: DenoiserConfig, error: float = 0.0) -> None:
        super().__init__()
        self.config, self.error = config, error

    def forward(self, noisy: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        self.noisy, self.timesteps, self.labels = noisy, timesteps, labels
        share = alpha_bar()[timesteps].view(-1, 1, 1, 1)
        return (noisy - share.sqrt() * IMAGES) / (1 - share).sqrt() + self.error


def loss(oracle: Oracle, seed: int = 1) -> float:
    generator = torch.Generator().manual_seed(seed)
    return epsilon_loss(oracle, IMAGES, LABELS, alpha_bar(), generator).item()  # type: ignore[arg-type]


def test_who_knows_the_noise_has_no_loss() -> None:
    assert loss(Oracle(tiny_pit())) < 1e-6


def test_an_error_weighs_less_where_little_noise_is() -> None:
    oracle = Oracle(tiny_pit(), error=0.5)
    found = loss(oracle)
    share = alpha_bar()[oracle.timesteps].double()
    snr = share / (1 - share)
    expected = (0.25 * snr.clamp(max=MAX_SNR) / snr).mean().item()
    assert found == pytest.approx(expected, rel=1e-3)
    assert found < 0.25


def test_labels_are_dropped_at_the_rate_of_the_config() -> None:
    config = tiny_pit(class_dropout_prob=0.5)
    oracle = Oracle(config)
    loss(oracle)
    dropped = oracle.labels == config.num_classes
    assert 20 <= dropped.sum() <= 44
    assert torch.equal(oracle.labels[~dropped], LABELS[~dropped])


def test_no_label_is_dropped_without_dropout() -> None:
    oracle = Oracle(replace(tiny_pit(), class_dropout_prob=0.0))
    loss(oracle)
    assert torch.equal(oracle.labels, LABELS)


def test_the_loss_draws_all_that_is_random_from_its_generator() -> None:
    first, again, other = Oracle(tiny_pit()), Oracle(tiny_pit()), Oracle(tiny_pit())
    for oracle, seed in ((first, 1), (again, 1), (other, 2)):
        torch.manual_seed(torch.seed() % 1000)
        loss(oracle, seed)
    assert torch.equal(first.noisy, again.noisy)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.noisy, other.noisy)


def test_the_schedule_is_that_of_ddpm() -> None:
    share = alpha_bar()
    assert share.shape == (1000,)
    assert share[0].item() == pytest.approx(1 - 1e-4)
    assert share[1].item() == pytest.approx((1 - 1e-4) * (1 - 1e-4 - 0.0199 / 999))
    assert share[999].item() == pytest.approx(4.036e-5, rel=1e-3)
    assert (share.diff() < 0).all()
