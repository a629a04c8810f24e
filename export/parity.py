"""Two denoisers side by side on the same inputs: relative L2, and whether it is small enough."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..runtime.bundle.goldens import Goldens
from ..runtime.bundle.precision import FP32
from ..runtime.distance import relative_l2
from ..runtime.pipeline import Pipeline
from ..runtime.stage import Moved

FP32_TOLERANCE = FP32.tolerance


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
        return max(self.relative_l2, key=lambda error: (math.isnan(error), error))

    @property
    def passed(self) -> bool:
        return all(error <= self.tolerance for error in self.relative_l2)  # false for NaN too


def check_parity(
    candidate: Pipeline,
    goldens: Goldens,
    tolerance: float,
    moved: Moved = lambda calls: None,
) -> Parity:
    """Feed the candidate what PyTorch was fed, and compare the answers call by call."""
    errors = []
    for call in goldens.calls:
        found = candidate.predict(call.latent, call.timestep, call.conditions)
        errors.append(relative_l2(call.prediction, found))
        moved(1)
    return Parity(tuple(errors), tolerance)
