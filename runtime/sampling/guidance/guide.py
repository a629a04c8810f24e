"""Classifier-free guidance (Ho & Salimans, 2022): from the untold branch on past the told one."""

from __future__ import annotations

import numpy as np

from ...bundle.manifest import Manifest
from ..sampler import Latent, Prediction


def guide(
    output: Latent, manifest: Manifest, cfg_scale: float, channels: int | None = None
) -> Prediction:
    """What a denoiser says of images, of its rows.

    Args:
        output: float32 [row, output channel, row, column]: the images, and where they are guided
            the same images once more, untold.
        manifest: Says which channels are guided, and whether half of them are a variance.
        cfg_scale: 1 is no guidance.
        channels: How many leading channels are guided, where not as the manifest says.
    """
    if cfg_scale != 1.0:
        told, untold = np.split(output, 2)
        channels = manifest.cfg_channels if channels is None else channels
        output = told.copy()
        output[:, :channels] = untold[:, :channels] + cfg_scale * (
            told[:, :channels] - untold[:, :channels]
        )
    if not manifest.learn_sigma:
        return Prediction(output)
    return Prediction(*np.split(output, 2, axis=1))
