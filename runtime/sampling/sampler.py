"""What a sampler is: one rule for taking a latent a step closer to the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from .schedule import Visits

Latent = npt.NDArray[np.float32]


EPSILON, V_PREDICTION, SAMPLE = "epsilon", "v_prediction", "sample"
NOISE_PREDICTIONS = (EPSILON, V_PREDICTION, SAMPLE)  # each tells the noise; a flow's velocity not


@dataclass(frozen=True)
class Prediction:
    """What the denoiser says of a latent, after guidance.

    Attributes:
        output: float32 [batch, channel, row, column], what the model was trained to predict: the
            noise in the latent (epsilon), or the latent's velocity.
        variance: The learned variance, raw in about [-1, 1], the same shape; None where the
            model does not learn it.
    """

    output: Latent
    variance: Latent | None = None


Memory = tuple[Latent, ...]
"""What a multi-step rule keeps of the steps before: nothing, for most."""


class Sampler(Protocol):
    """A rule without state: the same arguments always give the same latent."""

    @property
    def schedule(self) -> Visits:
        """The timesteps that it visits."""

    @property
    def stochastic(self) -> bool:
        """Whether `step` needs fresh noise."""

    def step(
        self,
        index: int,
        latent: Latent,
        prediction: Prediction,
        noise: Latent | None,
        memory: Memory,
    ) -> tuple[Latent, Memory]:
        """Move from step ``index`` of the schedule to the next.

        Args:
            index: 0 for the noisiest step, ``schedule.steps - 1`` for the last.
            latent: float32 [batch, channel, row, column], at the noise level of ``index``.
            prediction: What the denoiser found in ``latent``.
            noise: float32, fresh, the same shape, where the sampler is stochastic; None else.
            memory: What the step before returned; ``()`` at the first.

        Returns:
            The latent at the next noise level, the same shape and dtype, and the new memory.
        """


@runtime_checkable
class ChoosesCalls(Sampler, Protocol):
    """A rule that says itself where it makes nothing of what the denoiser says."""

    @property
    def asks(self) -> list[bool]:
        """Of each step, whether the denoiser is asked."""
