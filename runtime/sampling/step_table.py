"""A whole run as numbers, for a device that keeps the latents: no rule is asked in its loop.

Every sampler moves the latent by a linear combination of what it knows: the latent, the
denoiser's output, what it remembers, and fresh noise. Its coefficients depend on the step alone,
so they are a table. The table is not written down a second time for each rule; a rule is asked
once for each step with unit vectors in the place of latents, and answers with its coefficients.

The one exception is DDPM's learned variance. There the noise is multiplied by
``exp(slope * variance + offset)``, and two more questions tell slope and offset.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from .sampler import Latent, Memory, Prediction, Sampler

MEMORIES = 6  # of a step's graph: three predictions to forecast from, and the three of unipc_3
OUTPUT = 1  # its place in `taken`

PROBES, LARGE, LINEAR = 16, 1e3, 1e-9  # numbers, their size, and how alike they must be

Table = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


def taken(memories: int) -> tuple[str, ...]:
    """What a step is made of, with so many latents remembered."""
    return ("latent", "output", *(f"memory_{index}" for index in range(memories)), "noise")


def given(memories: int) -> tuple[str, ...]:
    """What a step makes: the next latent, and what is remembered."""
    return ("latent", *(f"memory_{index}" for index in range(memories)))


@dataclass(frozen=True)
class StepTable:
    """What a sampler does at each step.

    Attributes:
        timesteps: What the denoiser is fed at each step.
        moves: float32 [step, 1 + memories, 3 + memories], from `taken` to `given`.
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
    def memories(self) -> int:
        """The latents that it remembers, where it remembers most."""
        return int(self.moves.shape[1]) - 1

    @property
    def asks(self) -> list[bool]:
        """Of each step, whether what the denoiser says counts in it: else it need not be asked."""
        counts = self.moves[:, :, OUTPUT].any(axis=1) | (self.deviations[:, 0] != 0)
        return [bool(count) for count in counts]


@dataclass(frozen=True)
class Probe:
    """What a step was asked beside unit vectors, and what it said.

    Attributes:
        taken: float64 [3 + memories, probe], for each of `taken`.
        variance: The learned variance that it was told, [probe], or None.
        said: The latent and what is remembered, each [probe].
    """

    taken: Doubles
    variance: Doubles | None
    said: Sequence[Doubles]


class NotLinear(ValueError):
    """A rule whose steps are no table: it clips, say."""


def step_table(sampler: Sampler, *, learned_variance: bool) -> StepTable:
    """The coefficients of each step of a sampler, asked for once while it is in use.

    Args:
        sampler: The rule, with its schedule.
        learned_variance: Whether the model gives one.

    Raises:
        NotLinear: A step of it is more than a linear combination.
    """
    return _write(_Same(sampler), learned_variance)


class _Same:
    """A sampler that is equal to itself alone: its schedule's arrays have no hash."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.sampler is self.sampler

    def __hash__(self) -> int:
        return id(self.sampler)


@functools.lru_cache(maxsize=32)
def _write(same: _Same, learned_variance: bool) -> StepTable:
    sampler = same.sampler
    learns = learned_variance and sampler.stochastic
    remembered = _remembered(sampler, learned_variance)
    moves, probes = _moves(sampler, remembered, learned_variance)
    deviations = np.zeros((sampler.schedule.steps, 2))
    if learns:  # the deviation has the noise's size; DDPM's last step takes none
        moves[:, 0, -1] = moves[:, 0, -1] != 0
        deviations[:] = [_deviation(sampler, *each) for each in enumerate(remembered[:-1])]
    table = StepTable(
        tuple(map(float, sampler.schedule.timesteps)),
        moves.astype(np.float32),
        deviations.astype(np.float32),
        sampler.stochastic,
    )
    _check_linear(moves, deviations, probes)
    return table


def _remembered(sampler: Sampler, learned_variance: bool) -> list[int]:
    """How many latents are remembered before each step, and after the last."""
    nothing = cast("Latent", np.zeros((1, 1, 1, 1)))
    said = Prediction(nothing, nothing if learned_variance else None)
    fresh = nothing if sampler.stochastic else None
    counts: list[int] = [0]
    memory: Memory = ()
    for step in range(sampler.schedule.steps):
        _, memory = sampler.step(step, nothing, said, fresh, memory)
        counts.append(len(memory))
    return counts


def _moves(
    sampler: Sampler, remembered: Sequence[int], learned_variance: bool
) -> tuple[Doubles, list[Probe]]:
    """float64 [step, 1 + memories, 3 + memories], and what else was asked of each step.

    Beside unit vectors a rule is given numbers large enough that a clip would show.
    """
    memories = max(remembered)
    takes = len(taken(memories))
    moves = np.zeros((sampler.schedule.steps, len(given(memories)), takes))
    generator = np.random.default_rng(0)
    probes = []
    for step, rows in enumerate(moves):
        large = LARGE * generator.standard_normal((takes, PROBES))
        variance = generator.uniform(-1, 1, PROBES) if learned_variance else None
        said = _ask(sampler, step, remembered[step], large, variance)
        for row, answer in zip(rows, said, strict=False):
            row[:] = answer[:takes]
        probes.append(Probe(large, variance, [answer[takes:] for answer in said]))
    return moves, probes


def _ask(
    sampler: Sampler, step: int, remembered: int, large: Doubles, variance: Doubles | None
) -> list[Doubles]:
    """One step on unit vectors and large numbers: what comes back begins with coefficients."""
    takes = len(large)
    units = np.concatenate([np.eye(takes), large], axis=1).reshape(takes, -1, 1, 1, 1)
    latent, output, *memories, noise = cast("list[Latent]", list(units))
    learned = None
    if variance is not None:
        learned = np.concatenate([np.zeros(takes), variance]).reshape(-1, 1, 1, 1)
    prediction = Prediction(output, cast("Latent | None", learned))
    fresh = noise if sampler.stochastic else None
    moved, memory = sampler.step(step, latent, prediction, fresh, tuple(memories[:remembered]))
    return [cast("Doubles", each.ravel()) for each in (moved, *memory)]


def _deviation(sampler: Sampler, step: int, remembered: int) -> tuple[float, float]:
    """Slope and offset of the logarithm of the fresh noise's size over the learned variance."""
    nothing, one = cast("list[Latent]", [np.zeros((1, 1, 1, 1)), np.ones((1, 1, 1, 1))])
    memory = (nothing,) * remembered
    low, high = (
        float(sampler.step(step, nothing, Prediction(nothing, variance), one, memory)[0].item())
        for variance in (nothing, one)
    )
    if low == 0:  # no noise at all, so its logarithm does not matter
        return 0.0, 0.0
    return math.log(high / low), math.log(low)


def _check_linear(moves: Doubles, deviations: Doubles, probes: Sequence[Probe]) -> None:
    """Hold the table against what the rule made of large numbers."""
    for step, (move, deviation, probe) in enumerate(zip(moves, deviations, probes, strict=True)):
        taken = probe.taken.copy()
        if deviation.any() and probe.variance is not None:
            taken[-1] *= np.exp(deviation[0] * probe.variance + deviation[1])
        for said, tabled in zip(probe.said, move @ taken, strict=False):
            if not np.allclose(said, tabled, rtol=LINEAR, atol=LINEAR * LARGE):
                raise NotLinear(f"its step {step + 1} is not a linear combination of what it takes")
