"""Structural similarity (Wang et al., 2004), as scikit-image measures it."""

from __future__ import annotations

from ...runtime.distance import latent_peak
from ...runtime.sampling.sampler import Latent

WINDOW = 7  # pixels, scikit-image's default


def measure_ssim(expected: Latent, found: Latent, latent_space: str) -> tuple[float, ...]:
    """The similarity of each pair of images; nothing where scikit-image is not installed.

    Args:
        expected: float32 [image, channel, row, column].
        found: The same shape.
        latent_space: ``pixel`` or ``vae``; it says what the range of the values is.
    """
    try:
        from skimage.metrics import structural_similarity
    except ModuleNotFoundError:
        return ()
    window = min(WINDOW, (min(expected.shape[2:]) - 1) | 1)  # odd, and inside the image
    return tuple(
        float(
            structural_similarity(
                a, b, win_size=window, data_range=latent_peak(a, latent_space), channel_axis=0
            )
        )
        for a, b in zip(expected, found, strict=True)
    )
