"""From latents to pixels: a VAE's decoder, asked tile by tile.

A decoder's graph has static shapes. A latent that is larger is cut into tiles of the graph's size.
Neighbours share at least a quarter of their side, and there one fades linearly into the other.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .. import NonFiniteError
from .bundle.manifest import GraphSpec, Manifest
from .sampling.sampler import Latent
from .session import Session, SharedSession, was_closed

INPUT = "latent"
OUTPUT = "image"
SHARED = 4  # one over the part of a tile's side that it shares with the next, at least

Pixels = npt.NDArray[np.float32]
Decode = Callable[[Latent], Iterator[Pixels]]
"""From latents to their images, a decoder call's rows at a time."""


@dataclass(frozen=True)
class Tile:
    """A stretch of one axis that a single call decodes.

    Attributes:
        latent: Its pixels of the latent.
        image: Its pixels of the image.
        weights: float32 [image pixel], its share in the image; over all tiles they sum to 1.
    """

    latent: slice
    image: slice
    weights: Pixels


class TiledDecoder:
    """Decodes latents of any size that its graph's tile fits into.

    The graph is opened when the first latent comes: until then the denoiser has the memory.
    """

    def __init__(
        self, open_session: Callable[[], Session], spec: GraphSpec, manifest: Manifest
    ) -> None:
        self._open_session = open_session
        self._session: Session | None = None
        self._closed = False
        self._opening = threading.Lock()
        self._manifest = manifest
        self._batch, _, *self._tile = spec.inputs[0].shape
        self._channels = spec.outputs[0].shape[1]
        self._factor = spec.outputs[0].shape[2] // self._tile[0]

    def __call__(self, latents: Latent) -> Iterator[Pixels]:
        """Decode latents, as many together as the graph has rows.

        Args:
            latents: float32 [image, channel, row, column], as the denoiser has them.

        Yields:
            float32 [image, channel, row, column], about [-1, 1].

        Raises:
            NonFiniteError: The decoder left the finite numbers.
        """
        for start in range(0, len(latents), self._batch):
            rows = latents[start : start + self._batch]
            scaled = decoder_latent(rows, self._manifest)
            missing = self._batch - len(rows)
            padded = np.pad(scaled, [(0, missing), (0, 0), (0, 0), (0, 0)])
            yield self._decode(padded)[: len(rows)]

    def close(self) -> None:
        """Give the device memory back."""
        with self._opening:
            self._closed = True
            if self._session is not None:
                self._session.close()
                self._session = None

    def _decode(self, latent: Latent) -> Pixels:
        *_, height, width = latent.shape
        down, right = (
            cut(side, tile, self._factor)
            for side, tile in zip((height, width), self._tile, strict=True)
        )
        if len(down) == len(right) == 1:
            return self._ask(latent)
        sides = height * self._factor, width * self._factor
        image = np.zeros((self._batch, self._channels, *sides), dtype=np.float32)
        for row in down:
            for column in right:
                pixels = self._ask(latent[:, :, row.latent, column.latent])
                share = np.outer(row.weights, column.weights)
                image[:, :, row.image, column.image] += pixels * share
        return image

    def _opened(self) -> Session:
        with self._opening:
            if self._closed:
                raise was_closed()
            if self._session is None:
                self._session = SharedSession(self._open_session())
            return self._session

    def _ask(self, latent: Latent) -> Pixels:
        pixels = self._opened().run({INPUT: latent})[OUTPUT].astype(np.float32, copy=False)
        if not np.isfinite(pixels).all():
            raise NonFiniteError(
                "The decoder gave an image that is not finite",
                "Try `--precision fp32`, whose decoder is in fp32 too",
            )
        return pixels


def decoder_latent(latent: Latent, manifest: Manifest) -> Latent:
    """A latent of the denoiser as the decoder takes it: ``latent / scale + shift``."""
    return latent / np.float32(manifest.latent_scale) + np.float32(manifest.latent_shift)


def cut(length: int, tile: int, factor: int) -> list[Tile]:
    """Cut one axis of a latent into tiles, spread evenly.

    Args:
        length: Latent pixels of the axis.
        tile: Of a tile; at most ``length``.
        factor: Image pixels along one side of a latent pixel.
    """
    shared = tile // SHARED
    count = math.ceil((length - shared) / (tile - shared))
    starts = np.linspace(0, length - tile, count).round().astype(int).tolist()
    stretches = [slice(start * factor, (start + tile) * factor) for start in starts]
    weights = np.zeros((count, length * factor))
    for index, stretch in enumerate(stretches):
        before, after = stretches[max(index - 1, 0)], stretches[min(index + 1, count - 1)]
        rise = _ramp(tile * factor, before.stop - stretch.start if index else 0)
        fall = _ramp(tile * factor, stretch.stop - after.start if index < count - 1 else 0)
        weights[index, stretch] = np.minimum(rise, fall[::-1])
    weights /= weights.sum(axis=0)
    return [
        Tile(slice(start, start + tile), stretch, row[stretch].astype(np.float32))
        for start, stretch, row in zip(starts, stretches, weights, strict=True)
    ]


def _ramp(size: int, width: int) -> npt.NDArray[np.float64]:
    """From nearly 0 to 1 over the first ``width`` of ``size`` pixels, then 1."""
    return np.minimum(1.0, (np.arange(size) + 0.5) / width) if width else np.ones(size)
