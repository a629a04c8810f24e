"""The images of a run: each has its class and its seed, and a file of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..bundle.manifest import Manifest

UNSAFE = r"[^\w ,.()'-]"  # in the name of a file
NAME_LIMIT = 40  # characters of a class's name, at most 4 bytes each, in that of a file


@dataclass(frozen=True)
class PlannedImage:
    """One image of a run: its class, the class's name, its seed, and its file without suffix.

    A bundle that somebody sent may name its classes as it likes: no name leads out of the folder.
    """

    label: int
    name: str
    seed: int

    @property
    def stem(self) -> str:
        return f"{self.seed:06d}-{re.sub(UNSAFE, '_', self.name)[:NAME_LIMIT]}"


def plan_images(
    manifest: Manifest, labels: Sequence[str | int], num: int | None, seed: int
) -> list[PlannedImage]:
    """Give each image a label and a seed.

    Args:
        manifest: Of the bundle that draws.
        labels: By number or name; all classes where there are none.
        num: Images in all, the labels in turn; None for one of each label.
        seed: Of the first image; each next one has one more.

    Raises:
        OptionError: A label that does not exist.
    """
    known = manifest.label
    classes = [known.index(label) for label in labels or range(known.classes)]
    turns = (classes[index % len(classes)] for index in range(num or len(classes)))
    return [PlannedImage(label, known.called(label), seed + k) for k, label in enumerate(turns)]
