"""Image and noise in a latent, by what a model that knows both found of them.

With ``latent = a * image + s * noise``, where ``a**2`` is alpha_bar and ``s**2 = 1 - a**2``, the
velocity of Salimans and Ho (2022) is ``v = a * noise - s * image``, so ``image = a * latent - s *
v`` and ``noise = a * v + s * latent``.
"""

from __future__ import annotations

import numpy as np

from .sampler import EPSILON, SAMPLE, Latent


def image_in(latent: Latent, output: Latent, share: float, predicts: str) -> Latent:
    """The clean image.

    Args:
        latent: float32 [batch, channel, row, column].
        output: What the model found, the same shape.
        share: Of signal in the latent, alpha_bar; above 0 where ``predicts`` is ``epsilon``.
        predicts: ``epsilon``, ``v_prediction`` or ``sample``.
    """
    if predicts == SAMPLE:
        return output
    a, s = share**0.5, (1 - share) ** 0.5
    image: Latent = (latent - s * output) / a if predicts == EPSILON else a * latent - s * output
    return image


def noise_in(latent: Latent, output: Latent, share: float, predicts: str) -> Latent:
    """The noise; the arguments are those of `image_in`, with ``share`` below 1."""
    if predicts == EPSILON:
        return output
    a, s = share**0.5, (1 - share) ** 0.5
    noise: Latent = (latent - a * output) / s if predicts == SAMPLE else a * output + s * latent
    return noise


def cut(image: Latent, most: float) -> Latent:
    """The image cut to plus and minus ``most``; as it is where that is 0."""
    return np.clip(image, -most, most) if most else image
