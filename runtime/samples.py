"""What a run drew: latents and pictures, with the seeds, labels and settings that drew them."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import OptionError
from .decoder import Decode
from .sampling.sampler import Latent
from .sampling.settings import Settings
from .shown import listed, shown, sides

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_SHOWN, LEAST_SIDE, MOST_SIDE = 16, 96, 256  # pictures in a notebook, and pixels of each


@dataclass(frozen=True, eq=False)
class Samples:
    """What a run drew.

    Attributes:
        latents: float32 [image, channel, row, column].
        latent_space: ``pixel`` where the latents are the images.
        decode: The bundle's decoder, where it has one.
        seeds: Of each image.
        labels: What each image shows, by name, or by number where the classes have no names.
        settings: What all were drawn with, no name left at ``auto``.
        stopped_after: The step after which a callback stopped the run; None for a whole one. The
            latents are as noisy as that step left them, and images of later groups are missing.
    """

    latents: Latent
    latent_space: str
    decode: Decode | None = None
    seeds: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()
    settings: Settings | None = None
    stopped_after: int | None = None

    @property
    def images(self) -> list[Image]:
        """The pictures.

        Raises:
            OptionError: The latents are a VAE's, and the bundle has no decoder.
            NonFiniteError: The decoder left the finite numbers.
        """
        return list(self.pictures())

    def pictures(self) -> Iterator[Image]:
        """The pictures in order, each as soon as it is decoded; raises what `images` raises."""
        return self._shown_as(self.latents)

    def __len__(self) -> int:
        return len(self.latents)

    def __repr__(self) -> str:
        asked = {} if self.settings is None else self.settings.as_dict()
        return shown(
            f"Samples: {len(self)} of {sides(self.latents.shape[1:])}, "
            + ("pixels" if self.latent_space == "pixel" else "latents of a VAE"),
            {
                "labels": listed(self.labels),
                "seeds": listed(self.seeds),
                "settings": listed((f"{name}={value!r}" for name, value in asked.items()), 99),
                "stopped": f"after step {self.stopped_after}" if self.stopped_after else "",
                "read": ".images, .latents" if self._can_be_seen else ".latents (no decoder)",
            },
            most=3,
        )

    def _repr_png_(self) -> bytes | None:
        """A grid of the first pictures, for a notebook; None where there is no decoder."""
        if not self._can_be_seen or not len(self):
            return None
        from PIL.Image import Resampling

        from .image import make_grid

        pictures = list(self._shown_as(self.latents[:MOST_SHOWN]))
        wide, high = pictures[0].size
        if max(wide, high) > MOST_SIDE:
            share = MOST_SIDE / max(wide, high)
            small = (max(1, round(wide * share)), max(1, round(high * share)))
            pictures = [each.resize(small, Resampling.LANCZOS) for each in pictures]
        columns, zoom = math.ceil(len(pictures) ** 0.5), max(1, LEAST_SIDE // max(wide, high))
        png = io.BytesIO()
        make_grid(pictures, columns, zoom=zoom).save(png, format="PNG")
        return png.getvalue()

    @property
    def _can_be_seen(self) -> bool:
        return self.latent_space == "pixel" or self.decode is not None

    def _shown_as(self, latents: Latent) -> Iterator[Image]:
        from .image import to_images

        if self.latent_space == "pixel":
            yield from to_images(latents)
        elif self.decode is None:
            raise OptionError(
                "This bundle has no decoder, so its latents cannot be shown",
                "Export it again with `--vae DIR`, or save `.latents` and decode them with the "
                "model's VAE",
            )
        else:
            for pixels in self.decode(latents):
                yield from to_images(pixels)
