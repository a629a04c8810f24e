"""The images of a run: each has its class and its seed, and a file of its own."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from ... import OptionError
from ..bundle.manifest import Manifest
from ..sampling.sampler import Latent

UNSAFE = r"[^\w ,.()'-]"  # in the name of a file
NAME_LIMIT = 40  # characters of a class's name, at most 4 bytes each, in that of a file


@dataclass(frozen=True)
class PlannedImage:
    """One image of a run: its class, the class's name, its seed, and its file without suffix.

    Where its noise is not that of its seed, ``latent`` is what it starts from, float32 [channel,
    row, column]. A bundle that somebody sent may name its classes as it likes: no name leads out
    of the folder.
    """

    label: int
    name: str
    seed: int
    latent: Latent | None = field(default=None, compare=False, repr=False)

    @property
    def stem(self) -> str:
        return f"{self.seed:06d}-{re.sub(UNSAFE, '_', self.name)[:NAME_LIMIT]}"


def plan_images(
    manifest: Manifest,
    labels: Sequence[str | int],
    num: int | None,
    seed: int,
    latents: Latent | None = None,
) -> list[PlannedImage]:
    """Give each image a label and a seed.

    Args:
        manifest: Of the bundle that draws.
        labels: By number or name; all classes where there are none.
        num: Images in all, the labels in turn; None for one of each label, or of each latent.
        seed: Of the first image; each next one has one more.
        latents: What the images start from, float32 [image, channel, row, column].

    Raises:
        OptionError: A label that does not exist, or not as many latents as images.
    """
    known = manifest.label
    classes = [known.index(label) for label in labels or range(known.classes)]
    images = num or len(classes if latents is None else latents)
    if latents is not None and len(latents) != images:
        raise OptionError(
            f"There are {len(latents)} latents for {images} images",
            f"Give `--num {len(latents)}`, or a file of as many latents as images",
        )
    starts = itertools.repeat(None, images) if latents is None else latents
    return [
        PlannedImage(label, known.called(label), seed + index, start)
        for index, (label, start) in enumerate(zip(itertools.cycle(classes), starts, strict=False))
    ]
