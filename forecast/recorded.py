"""Samplers around a sampler that keep what the denoiser said, and that say it again."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..runtime.sampling.around import Around
from ..runtime.sampling.sampler import Latent, Memory, Prediction


@dataclass(frozen=True)
class Recording(Around):
    """A rule that keeps every prediction it is given, in order."""

    kept: list[Prediction] = field(default_factory=list)

    @property
    def asks(self) -> list[bool]:
        return [True] * self.schedule.steps

    def step(
        self,
        index: int,
        latent: Latent,
        prediction: Prediction,
        noise: Latent | None,
        memory: Memory,
    ) -> tuple[Latent, Memory]:
        self.kept.append(prediction)
        return self.rule.step(index, latent, prediction, noise, memory)


@dataclass(frozen=True)
class Replaying(Around):
    """A rule that is given at its first steps what was said before, and asks at the others."""

    said: list[Prediction]

    @property
    def asks(self) -> list[bool]:
        return [step >= len(self.said) for step in range(self.schedule.steps)]

    def step(
        self,
        index: int,
        latent: Latent,
        prediction: Prediction,
        noise: Latent | None,
        memory: Memory,
    ) -> tuple[Latent, Memory]:
        if index < len(self.said):
            prediction = self.said[index]
        return self.rule.step(index, latent, prediction, noise, memory)
