"""A sampler around a sampler: it puts a forecast in the place of what was not asked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..around import Around
from ..sampler import Latent, Memory, Prediction
from .plan import Plan


@dataclass(frozen=True)
class Forecasting(Around):
    """Hand the rule what the denoiser says where it is called, and a sum of that elsewhere.

    Its memory is what the denoiser said last, after guidance, newest first; then the rule's own.

    Attributes:
        plan: Of as many steps.
    """

    plan: Plan

    @property
    def asks(self) -> list[bool]:
        """Of each step, whether it calls the denoiser."""
        return [not factors for factors in self.plan.factors]

    def step(
        self,
        index: int,
        latent: Latent,
        prediction: Prediction,
        noise: Latent | None,
        memory: Memory,
    ) -> tuple[Latent, Memory]:
        held = self.plan.held[index]
        said, own = memory[:held], memory[held:]
        if self.plan.factors[index]:
            prediction = self._forecast(index, said, learned=prediction.variance is not None)
        else:
            said = (prediction.output, *said)[: self.plan.terms]
        moved, own = self.rule.step(index, latent, prediction, noise, own)
        return moved, (*said, *own)

    def _forecast(self, index: int, said: Memory, *, learned: bool) -> Prediction:
        factors = self.plan.factors[index]
        output = factors[0] * said[0]
        for factor, one in zip(factors[1:], said[1:], strict=False):
            output = output + factor * one
        variance = np.full_like(output, self.plan.variance(index)) if learned else None
        return Prediction(output, variance)
