"""Two denoisers side by side on the same inputs: relative L2, and whether it is small enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..runtime.goldens import Goldens
from ..runtime.pipeline import Pipeline

FP32_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Parity:
    """How far a graph is from PyTorch on single calls.

    Attributes:
        relative_l2: For each call, the norm of the difference over the norm of PyTorch's output.
        tolerance: What the largest of them may be.
    """

    relative_l2: tuple[float, ...]
    tolerance: float

    @property
    def worst(self) -> float:
        return max(self.relative_l2)

    @property
    def passed(self) -> bool:
        return self.worst <= self.tolerance  # false for NaN too


def check_parity(candidate: Pipeline, goldens: Goldens, tolerance: float) -> Parity:
    """Feed the candidate what PyTorch was fed, and compare the answers call by call."""
    calls = zip(
        goldens.latents, goldens.timesteps, goldens.labels, goldens.predictions, strict=True
    )
    errors = (
        relative_l2(expected, candidate.predict(latent, int(timestep), labels))
        for latent, timestep, labels, expected in calls
    )
    return Parity(tuple(errors), tolerance)


def relative_l2(expected: npt.NDArray[Any], found: npt.NDArray[Any]) -> float:
    """``|found - expected| / |expected|``; infinite where ``found`` is not finite."""
    if not np.isfinite(found).all():
        return float("inf")
    error = float(np.linalg.norm(found.astype(np.float64) - expected))
    size = float(np.linalg.norm(expected.astype(np.float64)))
    if size == 0.0:  # an untrained adaLN-Zero model answers with zeros
        return 0.0 if error == 0.0 else float("inf")
    return error / size
