"""A whole run as numbers, for a device that keeps the latents: no rule is asked in its loop.

Every sampler moves the latent by a linear combination of what it knows: the latent, the
denoiser's output, what it remembers, and fresh noise. Its coefficients depend on the step alone,
so they are a table. The table is not written down a second time for each rule; a rule is asked
once for each step with unit vectors in the place of latents, and answers with its coefficients.

The one exception is DDPM's learned variance. There the noise is multiplied by
``exp(slope * variance + offset)``, and two more questions tell slope and offset.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from .sampler import Latent, Memory, Prediction, Sampler

MEMORIES = 2  # the most that a rule remembers: Heun, halfway through an interval
TAKEN = ("latent", "output", "memory_0", "memory_1", "noise")
GIVEN = ("latent", "memory_0", "memory_1")

PROBES, LARGE, LINEAR = (4, 1, 2, 2), 1e3, 1e-9  # their shape, size, and how alike they must be

Table = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class StepTable:
    """What a sampler does at each step.

    Attributes:
        timesteps: What the denoiser is fed at each step.
        moves: float32 [step, 3, 5], from `TAKEN` to `GIVEN`.
        deviations: float32 [step, 2], slope and offset of the noise's logarithm over the learned
            variance; 0 where nothing is learned, and then the noise's size is in ``moves``.
        stochastic: Whether each step takes fresh noise.
    """

    timesteps: tuple[float, ...]
    moves: Table
    deviations: Table
    stochastic: bool

    @property
    def steps(self) -> int:
        return len(self.timesteps)

    @property
    def asks(self) -> list[bool]:
        """Of each step, whether what the denoiser says counts in it: else it need not be asked."""
        counts = self.moves[:, :, TAKEN.index("output")].any(axis=1) | (self.deviations[:, 0] != 0)
        return [bool(count) for count in counts]


class NotLinear(ValueError):
    """A rule whose steps are no table: it clips, say, or remembers more than a table holds."""


def write_step_table(sampler: Sampler, *, learned_variance: bool) -> StepTable:
    """Ask a sampler for the coefficients of each of its steps.

    Args:
        sampler: The rule, with its schedule.
        learned_variance: Whether the model gives one.

    Raises:
        NotLinear: A step of it is more than a linear combination, or it remembers too much.
    """
    learns = learned_variance and sampler.stochastic
    moves = _moves(sampler, learned_variance)
    deviations = np.zeros((sampler.schedule.steps, 2))
    if learns:  # the deviation has the noise's size; DDPM's last step takes none
        moves[:, 0, -1] = moves[:, 0, -1] != 0
        deviations[:] = [_deviation(sampler, step) for step in range(len(moves))]
    table = StepTable(
        tuple(map(float, sampler.schedule.timesteps)),
        moves.astype(np.float32),
        deviations.astype(np.float32),
        sampler.stochastic,
    )
    _check_linear(sampler, moves, deviations, learned_variance)
    return table


def _moves(sampler: Sampler, learned_variance: bool) -> Doubles:
    """float64 [step, 3, 5]: what each of `GIVEN` is made of."""
    moves = np.zeros((sampler.schedule.steps, len(GIVEN), len(TAKEN)))
    remembered = 0  # a rule knows by its memory's length what came before
    for step, rows in enumerate(moves):
        latent, memory = _ask(sampler, step, remembered, learned_variance)
        if len(memory) > MEMORIES:
            raise NotLinear(f"it remembers {len(memory)} latents, a table holds {MEMORIES}")
        for row, answer in zip(rows, (latent, *memory), strict=False):
            row[:] = answer.ravel()
        remembered = len(memory)
    return moves


def _ask(
    sampler: Sampler, step: int, remembered: int, learned_variance: bool
) -> tuple[Latent, Memory]:
    """One step on unit vectors: what comes back are coefficients over `TAKEN`."""
    units = np.eye(len(TAKEN)).reshape(len(TAKEN), len(TAKEN), 1, 1, 1)
    latent, output, *memories, noise = cast("list[Latent]", list(units))
    variance = np.zeros_like(latent) if learned_variance else None
    prediction = Prediction(output, variance)
    fresh = noise if sampler.stochastic else None
    return sampler.step(step, latent, prediction, fresh, tuple(memories[:remembered]))


def _deviation(sampler: Sampler, step: int) -> tuple[float, float]:
    """Slope and offset of the logarithm of the fresh noise's size over the learned variance."""
    nothing, one = cast("list[Latent]", [np.zeros((1, 1, 1, 1)), np.ones((1, 1, 1, 1))])
    low, high = (
        float(sampler.step(step, nothing, Prediction(nothing, variance), one, ())[0].item())
        for variance in (nothing, one)
    )
    if low == 0:  # no noise at all, so its logarithm does not matter
        return 0.0, 0.0
    return math.log(high / low), math.log(low)


def _check_linear(
    sampler: Sampler, moves: Doubles, deviations: Doubles, learned_variance: bool
) -> None:
    """Hold the table against the rule on numbers large enough that a clip would show."""
    generator = np.random.default_rng(0)
    remembered = 0
    for step, (move, deviation) in enumerate(zip(moves, deviations, strict=True)):
        taken = generator.standard_normal((len(TAKEN), *PROBES)) * LARGE
        variance = generator.uniform(-1, 1, PROBES) if learned_variance else None
        latent, output, *memories, noise = cast("list[Latent]", list(taken))
        said = sampler.step(
            step,
            latent,
            Prediction(output, cast("Latent | None", variance)),
            noise if sampler.stochastic else None,
            tuple(memories[:remembered]),
        )
        if learned_variance and sampler.stochastic and variance is not None:
            taken[-1] *= np.exp(deviation[0] * variance + deviation[1])
        if not all(map(_equal, (said[0], *said[1]), np.tensordot(move, taken, 1))):
            raise NotLinear(f"its step {step + 1} is not a linear combination of what it takes")
        remembered = len(said[1])


def _equal(said: Latent, tabled: Doubles) -> bool:
    return bool(np.allclose(said, tabled, rtol=LINEAR, atol=LINEAR * LARGE))
