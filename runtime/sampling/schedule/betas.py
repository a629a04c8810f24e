"""The noise that a model was trained with, timestep by timestep, as diffusers names it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import Schedule, Table, Timesteps

LINEAR, SCALED_LINEAR, SQUARED_COSINE = "linear", "scaled_linear", "squaredcos_cap_v2"
BETA_RULES = (LINEAR, SCALED_LINEAR, SQUARED_COSINE)
MOST_BETA = 0.999  # of the squared cosine, as the paper cuts it


@dataclass(frozen=True)
class Betas:
    """The share of noise that each timestep of training adds.

    Attributes:
        train_steps: Timesteps in training.
        beta_start: Beta of timestep 0, in (0, 1).
        beta_end: Beta of the last timestep, in (0, 1).
        rule: How they rise: ``linear``; ``scaled_linear``, linear in their square roots (latent
            diffusion); or ``squaredcos_cap_v2``, of Nichol and Dhariwal (2021, eq. 17), which
            has no start and end.
        trained: The betas themselves, [train_steps], where a model brings its own; else empty.
        zero_snr: Whether they are rescaled so that no signal is left at the last timestep (Lin et
            al., 2024, algorithm 1).
    """

    train_steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    rule: str = LINEAR
    trained: tuple[float, ...] = ()
    zero_snr: bool = False

    @property
    def called(self) -> str:
        """In users' words."""
        ends = f" {self.beta_start:g} to {self.beta_end:g}" if self.rule != SQUARED_COSINE else ""
        betas = "betas of the model's own" if self.trained else f"betas {self.rule}{ends}"
        rescaled = ", no signal at the last" if self.zero_snr else ""
        return f"{self.train_steps} timesteps, {betas}{rescaled}"

    @property
    def last_timestep(self) -> int:
        return self.train_steps - 1

    @property
    def most_steps(self) -> int:
        return self.train_steps

    def noise_level(self, timesteps: Timesteps | Table) -> Table:
        return timesteps / self.train_steps

    def spread(self, count: int) -> Timesteps:
        return np.linspace(0, self.last_timestep, count).round().astype(np.int64)

    def betas(self) -> Table:
        """float64 [train_steps], each in (0, 1), before they are rescaled."""
        if self.trained:
            return np.array(self.trained, dtype=np.float64)
        if self.rule == SQUARED_COSINE:
            return _squared_cosine(self.train_steps)
        power = 0.5 if self.rule == SCALED_LINEAR else 1.0
        ends = (self.beta_start**power, self.beta_end**power)
        betas: Table = np.linspace(*ends, self.train_steps, dtype=np.float64) ** (1 / power)
        return betas

    def alpha_bar(self) -> Table:
        """float64 [train_steps]: the product of (1 - beta) up to each timestep."""
        product = np.cumprod(1.0 - self.betas(), dtype=np.float64)
        return _without_signal_at_last(product) if self.zero_snr else product

    def visit(
        self,
        timesteps: Timesteps | Table,
        *,
        stride: int | None = None,
        last: float = 1.0,
        least: float = 0.0,
    ) -> Schedule:
        """The schedule of a run.

        Args:
            timesteps: What it visits, in falling order.
            stride: How far below each timestep its step ends, where that is not at the next.
            last: The share of signal that the last step ends at.
            least: The share of signal at the last timestep of training where ``zero_snr`` leaves
                none.
        """
        table = self.alpha_bar()
        if self.zero_snr:
            table[-1] = least
        shares = _between(table, timesteps)
        if stride is None:
            return Schedule(timesteps, shares, np.append(shares[1:], last))
        ends = timesteps - stride
        after = np.where(ends >= 0, _between(table, np.maximum(ends, 0)), last)
        return Schedule(timesteps, shares, after)


def _between(table: Table, timesteps: Timesteps | Table) -> Table:
    """The shares of signal at timesteps, and between them on a line of noise over signal.

    The line is that of diffusers' Euler, in amplitudes.
    """
    if timesteps.dtype.kind == "i":
        shares: Table = table[timesteps]
        return shares
    sigma = np.interp(timesteps, np.arange(len(table)), np.sqrt((1 - table) / table))
    return 1 / (1 + sigma**2)


def _squared_cosine(train_steps: int) -> Table:
    left = np.cos((np.arange(train_steps + 1) / train_steps + 0.008) / 1.008 * np.pi / 2) ** 2
    betas: Table = np.minimum(1 - left[1:] / left[:-1], MOST_BETA)
    return betas


def _without_signal_at_last(alpha_bar: Table) -> Table:
    """Shifted and scaled in amplitudes, so that the first stays and the last is nought."""
    amplitudes = np.sqrt(alpha_bar)
    first, last = amplitudes[0], amplitudes[-1]
    rescaled: Table = ((amplitudes - last) * (first / (first - last))) ** 2
    return rescaled
