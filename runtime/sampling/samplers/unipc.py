"""UniPC (Zhao et al., 2023), B(h) = e^h - 1: a call also corrects the step that led to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..found import image_in
from ..halfway import half_log_snr, shares_of_step
from ..sampler import EPSILON, Latent, Memory, Prediction
from ..schedule import Schedule


@dataclass(frozen=True)
class UniPc:
    """Move by the last images predicted; at the next call, move again with what it found too.

    Both moves are sums of the latent and of predicted images. All of the second but its last term
    is known with the first, so that the memory is this much of it, then the images, newest first.
    The orders rise from 1 at the beginning and fall to 1 at the end, as diffusers' do.

    Attributes:
        schedule: The timesteps that it visits.
        predicts: What the model finds: ``epsilon``, ``v_prediction`` or ``sample``.
        order: Of the predictor, 2 or 3; the corrector's is one higher.
    """

    schedule: Schedule
    predicts: str = EPSILON
    order: int = 2

    @property
    def stochastic(self) -> bool:
        return False

    def step(
        self,
        index: int,
        latent: Latent,
        prediction: Prediction,
        noise: Latent | None,
        memory: Memory,
    ) -> tuple[Latent, Memory]:
        now, _ = self.schedule.shares(index)
        image = image_in(latent, prediction.output, now, self.predicts)
        images = (image, *memory[1:])
        if memory:
            latent = memory[0] + self._move(index - 1).found * image
        move = self._move(index)
        stayed = move.latent * latent
        moved, so_far = (stayed + _sum(shares, images) for shares in (move.predicted, move.known))
        return moved, (so_far, *images[: self.order - 1])

    def _move(self, index: int) -> Move:
        """The factors of a step's two moves."""
        now, after = self.schedule.shares(index)
        of_latent, of_image = shares_of_step(now, after)
        ratios, length = self._ratios(index)
        predictor, corrector = predictor_weights(ratios, length), corrector_weights(ratios, length)
        found = of_image * corrector[-1]
        known = _shares(of_image, corrector[:-1], ratios)
        return Move(
            of_latent,
            _shares(of_image, predictor, ratios),
            (known[0] - found, *known[1:]),
            found,
        )

    def _ratios(self, index: int) -> tuple[list[float], float]:
        """How far back the images before lie, in lengths of the step; and its length, in lambda.

        As many steps as in training visit one timestep twice: the images there are one.
        """
        now, after = map(half_log_snr, self.schedule.shares(index))
        order = min(self.order, index + 1, self.schedule.steps - index)
        ratios: list[float] = []
        last = now
        for earlier in range(index - 1, index - order, -1):
            then = half_log_snr(float(self.schedule.alpha_bar[earlier]))
            if then == last or after == now:
                break
            ratios.append((then - now) / (after - now))
            last = then
        return ratios, after - now


@dataclass(frozen=True)
class Move:
    """What a step's moves are made of.

    Attributes:
        latent: The factor of the latent, in both.
        predicted: Of the images that are known, newest first, where the next is to be predicted.
        known: Of the same where the next image is known too.
        found: Of that image.
    """

    latent: float
    predicted: tuple[float, ...]
    known: tuple[float, ...]
    found: float


def predictor_weights(ratios: Sequence[float], length: float) -> list[float]:
    """Of the slopes to the images before, one for each; the paper's a_p (theorem 3.1)."""
    if len(ratios) < 2:
        return [0.5] * len(ratios)  # the simpler value, as good at second order
    return _solve(ratios, length)


def corrector_weights(ratios: Sequence[float], length: float) -> list[float]:
    """As `predictor_weights`, and last of the slope to the image at the step's end."""
    return _solve([*ratios, 1.0], length) if ratios else [0.5]


def _solve(ratios: Sequence[float], length: float) -> list[float]:
    powers = np.power.outer(np.array(ratios), np.arange(len(ratios))).T
    goals, phi = [], math.expm1(-length) / -length - 1  # of h * phi_(k + 1)(h)
    for degree in range(1, len(ratios) + 1):
        goals.append(phi * math.factorial(degree) / math.expm1(-length))
        phi = phi / -length - 1 / math.factorial(degree + 1)
    return [float(weight) for weight in np.linalg.solve(powers, np.array(goals))]


def _shares(
    of_image: float, weights: Sequence[float], ratios: Sequence[float]
) -> tuple[float, ...]:
    """The factors of images in ``of_image * (m0 + sum of weight * (m_k - m0) / ratio_k)``."""
    slopes = [of_image * weight / ratio for weight, ratio in zip(weights, ratios, strict=True)]
    return (of_image - sum(slopes), *slopes)


def _sum(shares: Sequence[float], images: Sequence[Latent]) -> Latent:
    """As many of the images as there are shares, weighed."""
    total: Latent = sum(
        (share * image for share, image in zip(shares[1:], images[1:], strict=False)),
        shares[0] * images[0],
    )
    return total
