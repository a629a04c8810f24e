"""What samplers around a sampler have in common: its schedule, and whether it takes noise."""

from __future__ import annotations

from dataclasses import dataclass

from .sampler import Sampler
from .schedule import Visits


@dataclass(frozen=True)
class Around:
    """A rule around a rule.

    Attributes:
        rule: What moves the latent.
    """

    rule: Sampler

    @property
    def schedule(self) -> Visits:
        return self.rule.schedule

    @property
    def stochastic(self) -> bool:
        return self.rule.stochastic
