"""What a denoiser is fed beside the latent, made by the conditioner before the loop.

A conditioner is opened, asked for all rows of a run in as many calls as its traced rows need, and
closed. One that takes a timestep makes rows for each step of each condition, one that takes none
makes rows for each condition. What it made for the run before is kept, for runs that are alike.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..bundle.manifest import TIMESTEP, GraphSpec
from ..session import Array, Session, was_closed
from .condition import Condition, stack

CHUNK_BYTES = 256 << 20  # of rows held at a time: 250 guided steps of PiT-XL need 390 MB

Pair = tuple[float, Condition]
"""A timestep, as it is fed, and what a row is told; the timestep is 0 where none is taken."""


Ask = Callable[[Mapping[str, Array]], dict[str, Array]]
"""From timesteps and conditions by name to the denoiser's inputs by name, each [row, ...]."""


class Feeder(Protocol):
    """Gives a run the denoiser's inputs, step by step."""

    def rows(self, timesteps: Sequence[float], told: Sequence[Condition]) -> dict[str, Array]:
        """The inputs of rows, one timestep and one condition each, but for the latent."""


class Plain:
    """Feeds a denoiser that takes timestep and conditions themselves."""

    def rows(self, timesteps: Sequence[float], told: Sequence[Condition]) -> dict[str, Array]:
        return {TIMESTEP: np.array(timesteps, dtype=np.float32), **stack(told)}


@dataclass(frozen=True)
class _Held:
    """Rows that were made, [row, ...] by the name of the denoiser's input, and where each lies."""

    arrays: Mapping[str, Array]
    place: Mapping[Pair, int]

    def has(self, pairs: Iterable[Pair]) -> bool:
        return all(pair in self.place for pair in pairs)

    def rows(self, pairs: Sequence[Pair]) -> dict[str, Array]:
        places = [self.place[pair] for pair in pairs]
        first, last = places[0], places[-1]
        if places == list(range(first, last + 1)):  # one guided image: nothing to copy
            return {name: array[first : last + 1] for name, array in self.arrays.items()}
        return {name: array[places] for name, array in self.arrays.items()}


NOTHING = _Held({}, {})


class Conditioner:
    """A conditioner's graph, which is opened when there is something to ask it.

    Several threads may prepare runs on it; one at a time is asked.
    """

    def __init__(
        self,
        open_session: Callable[[], Session],
        spec: GraphSpec,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        """Take the graph.

        Args:
            open_session: Opens it.
            spec: Its inputs are conditions and maybe a timestep, its outputs the denoiser's
                inputs, each [row, ...].
            chunk_bytes: How much a run holds at a time; the rows of one step at least.
        """
        self._open_session = open_session
        self.spec = spec
        self._chunk_bytes = chunk_bytes
        self._steps = TIMESTEP in {tensor.name for tensor in spec.inputs}
        self._asking = threading.Lock()
        self._last = NOTHING
        self._closed = False

    def prepare(self, timesteps: Iterable[float], told: Iterable[Condition]) -> ConditionedRun:
        """Make the rows of a run, or of as many of its first steps as fit."""
        steps = list(dict.fromkeys(map(self.as_asked, timesteps)))  # a rule may visit one twice
        return ConditionedRun(self, steps, list(dict.fromkeys(told)))

    def as_asked(self, timestep: float) -> float:
        """A timestep as the graph's float32 input holds it, so that its rows are found again."""
        return float(np.float32(timestep)) if self._steps else 0.0

    def fitting(self, told: int) -> int:
        """Of how many steps the rows fit, with ``told`` conditions each."""
        row_bytes = sum(
            int(np.prod(tensor.shape[1:])) * np.dtype(tensor.dtype).itemsize
            for tensor in self.spec.outputs
        )
        return max(1, self._chunk_bytes // (row_bytes * told))

    def make(self, pairs: Sequence[Pair]) -> _Held:
        """Ask the graph, unless the last that it was asked for has all of it."""
        with self._asking:
            if self._closed:
                raise was_closed()
            if not self._last.has(pairs):
                self._last = NOTHING  # given back before the next are made
                self._last = _Held(self._ask(pairs), {pair: k for k, pair in enumerate(pairs)})
            return self._last

    @contextlib.contextmanager
    def opened(self) -> Iterator[Ask]:
        """The graph itself, for whoever has rows of his own to ask for."""
        session = self._open_session()
        try:
            yield lambda feeds: ask_conditioner(session, self.spec, feeds)
        finally:
            session.close()

    def forget(self) -> None:
        """Give back what was made for the run before."""
        with self._asking:
            self._last = NOTHING

    def close(self) -> None:
        """Give it back, and be asked no more; a second time does nothing."""
        self._closed = True
        self.forget()

    def _ask(self, pairs: Sequence[Pair]) -> dict[str, Array]:
        timesteps = np.array([timestep for timestep, _ in pairs], dtype=np.float32)
        with self.opened() as ask:
            return ask({TIMESTEP: timesteps, **stack([condition for _, condition in pairs])})


class ConditionedRun:
    """The rows of one run, of which a chunk is held at a time."""

    def __init__(self, conditioner: Conditioner, steps: list[float], told: list[Condition]) -> None:
        self._conditioner, self._steps, self._told = conditioner, steps, told
        self._held = NOTHING
        self._hold(steps, told)

    def rows(self, timesteps: Sequence[float], told: Sequence[Condition]) -> dict[str, Array]:
        pairs = list(zip(map(self._conditioner.as_asked, timesteps), told, strict=True))
        if not self._held.has(pairs):
            self._hold_for(pairs)
        return self._held.rows(pairs)

    def _hold_for(self, pairs: Sequence[Pair]) -> None:
        """Make what a call lacks: the next chunk of the run, or just this call's rows."""
        steps = list(dict.fromkeys(step for step, _ in pairs))
        told = list(dict.fromkeys(one for _, one in pairs))
        if len(steps) == 1 and steps[0] in self._steps and set(told) <= set(self._told):
            self._hold(self._steps[self._steps.index(steps[0]) :], self._told)
        else:
            self._hold(steps, told)

    def _hold(self, steps: Sequence[float], told: Sequence[Condition]) -> None:
        self._held = NOTHING  # given back before the next are made
        fitting = self._conditioner.fitting(len(told))
        self._held = self._conditioner.make([
            (step, one) for step in steps[:fitting] for one in told
        ])


def ask_conditioner(
    session: Session, spec: GraphSpec, feeds: Mapping[str, Array]
) -> dict[str, Array]:
    """Ask for any number of rows, in calls of the traced size, the last one padded.

    Args:
        session: The conditioner, opened.
        spec: Of its graph.
        feeds: Its inputs by name, each [row, ...], and maybe others.

    Returns:
        Its outputs by name, each [row, ...].
    """
    traced = spec.inputs[0].shape[0]
    count = len(feeds[spec.inputs[0].name])
    parts = []
    for start in range(0, count, traced):
        rows = np.minimum(np.arange(start, start + traced), count - 1)
        asked = {tensor.name: feeds[tensor.name][rows] for tensor in spec.inputs}
        answer = session.run({
            tensor.name: asked[tensor.name].astype(tensor.dtype, copy=False)
            for tensor in spec.inputs
        })
        parts.append({name: rows[: count - start] for name, rows in answer.items()})
    return {
        tensor.name: np.concatenate([part[tensor.name] for part in parts])
        for tensor in spec.outputs
    }
