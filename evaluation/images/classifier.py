"""The classifier that ships with pitstop, as a network that looks at sets of images."""

from __future__ import annotations

import numpy as np
import torch

from ... import OptionError
from ...models.checkpoint import load_classifier
from ...models.presets import CLASSIFIER
from .features import SHIPPED, Network, Seen
from .image_set import ImageSet, Pixels

SIZE = (32, 32)  # rows and columns that it was trained on
ANOTHER = "Install torch-fidelity or clean-fid, and name Inception's weights with `--weights`"


def open_classifier() -> Network:
    """It, on the CPU: grey images of 32 x 32 alone."""
    model = load_classifier(CLASSIFIER)

    def look(pixels: Pixels) -> Seen:
        if (pixels != pixels[..., :1]).any():
            raise OptionError("The shipped classifier judges grey images, not colours", ANOTHER)
        images = torch.from_numpy(pixels[:, None, :, :, 0] / np.float32(127.5) - np.float32(1))
        with torch.inference_mode():
            features = model.features(images)
            return Seen(features.numpy(), model.head(features).numpy())

    return Network(SHIPPED, look, _check)


def _check(images: ImageSet) -> None:
    if images.size != SIZE:
        rows, columns = images.size
        raise OptionError(
            f"The images of {images.path} are {rows} x {columns}, and the shipped classifier "
            "judges grey ones of 32 x 32",
            ANOTHER,
        )
