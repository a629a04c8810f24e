"""How far two arrays are from each other: relative L2, and PSNR."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def relative_l2(expected: npt.NDArray[Any], found: npt.NDArray[Any]) -> float:
    """``|found - expected| / |expected|``; infinite where one of them is not finite."""
    if not (np.isfinite(found).all() and np.isfinite(expected).all()):
        return float("inf")
    error = float(np.linalg.norm(found.astype(np.float64) - expected))
    size = float(np.linalg.norm(expected.astype(np.float64)))
    if size == 0.0:  # an untrained adaLN-Zero model answers with zeros
        return 0.0 if error == 0.0 else float("inf")
    return error / size


def psnr(expected: npt.NDArray[Any], found: npt.NDArray[Any], peak: float) -> float:
    """Peak signal-to-noise ratio in dB: ``20 log10(peak) - 10 log10(mean squared error)``."""
    error = float(np.mean((expected.astype(np.float64) - found) ** 2))
    return float("inf") if error == 0.0 else float(20 * np.log10(peak) - 10 * np.log10(error))


def latent_peak(latent: npt.NDArray[Any], latent_space: str) -> float:
    """The peak for the PSNR of a latent: 2 for pixels in [-1, 1], its own range for a VAE's."""
    return 2.0 if latent_space == "pixel" else float(np.ptp(latent))
