"""From pixels to latents: a VAE's encoder, asked tile by tile and closed after it.

Its graph has static shapes, for one image. A larger image is cut into tiles as the decoder's
latents are; neighbours fade into each other in the latent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from .. import NonFiniteError
from .bundle.manifest import GraphSpec, Manifest
from .decoder import Pixels, cut
from .sampling.sampler import Latent
from .session import Session

INPUT, OUTPUT = "image", "latent"


class Encode(Protocol):
    """From an image in [-1, 1] to its latent, both float32 [channel, row, column]."""

    @property
    def channels(self) -> int:
        """Of the image."""

    @property
    def factor(self) -> int:
        """Pixels of the image along one side of a latent pixel."""

    def __call__(self, image: Pixels) -> Latent:
        """Encode one image, as the denoiser has it."""


class TiledEncoder:
    """Encodes images of the size that a bundle draws."""

    def __init__(
        self, open_session: Callable[[], Session], spec: GraphSpec, manifest: Manifest
    ) -> None:
        self._open_session, self._manifest = open_session, manifest
        _, self.channels, *self._pixels = spec.inputs[0].shape
        _, _, *self._tile = spec.outputs[0].shape
        self.factor = self._pixels[0] // self._tile[0]

    def __call__(self, image: Pixels) -> Latent:
        """Encode one image, as the denoiser has it.

        Raises:
            NonFiniteError: The encoder left the finite numbers.
        """
        session = self._open_session()
        try:
            found = self._encode(session, image)
        finally:
            session.close()
        if not np.isfinite(found).all():
            raise NonFiniteError(
                "The encoder gave a latent that is not finite", "Begin with another image"
            )
        return encoder_latent(found, self._manifest)

    def _encode(self, session: Session, image: Pixels) -> Latent:
        channels, *sides = self._manifest.latent_shape
        latent = np.zeros((channels, *sides), dtype=np.float32)
        down, right = (cut(side, tile, 1) for side, tile in zip(sides, self._tile, strict=True))
        for row in down:
            for column in right:
                pixels = image[:, self._of(row.latent), self._of(column.latent)]
                [found] = session.run({INPUT: pixels[None]})[OUTPUT]
                share = np.outer(row.weights, column.weights)
                latent[:, row.latent, column.latent] += found * share
        return latent

    def _of(self, stretch: slice) -> slice:
        """The image pixels of latent pixels."""
        return slice(stretch.start * self.factor, stretch.stop * self.factor)


def encoder_latent(latent: Latent, manifest: Manifest) -> Latent:
    """What an encoder gives as the denoiser takes it: ``(latent - shift) * scale``."""
    return (latent - np.float32(manifest.latent_shift)) * np.float32(manifest.latent_scale)
