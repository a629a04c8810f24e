"""A run as a device takes it: all that its loop must be told, as arrays of the traced batch.

The denoiser and the step's graph (`export.step_graph`) hand each other their tensors on the
device. What differs from row to row and from step to step is fed: what a row is told, which row
guides it and how far, and by which factors its latents move. A row whose request has not begun or
is whole stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..bundle.folder import GraphFile
from ..bundle.manifest import GraphSpec, Manifest
from ..session import Array, Session
from .conditioner import Conditioner, Feeder, Plain
from .loop import Loop
from .own_sampler import OwnSampler
from .request import Request
from .sampler import Latent
from .step_table import NotLinear, StepTable, Table, given, step_table, taken

NOISE = "noise"
NO_DEVIATION = np.zeros(2, dtype=np.float32)


@runtime_checkable
class KeepsLatents(Session, Protocol):
    """A session that can keep the latents where it runs."""

    def open_loop(
        self, manifest: Manifest, step: GraphFile, conditioner: Conditioner | None
    ) -> Loop | None:
        """Open the step beside this denoiser, or None where nothing is won by it."""


def carried(step: GraphSpec) -> dict[str, str]:
    """The step's inputs that come from its own outputs, a step before; and these outputs."""
    return {name: f"next_{name}" for name in given(memories_of(step))}


def memories_of(step: GraphSpec) -> int:
    """The latents that a step's graph can remember beside the one that it moves."""
    return sum(tensor.name.startswith("memory_") for tensor in step.inputs)


def why_not_on_device(
    requests: Sequence[Request], manifest: Manifest, step: GraphSpec
) -> str | None:
    """Say why a device's loop cannot draw these, or None where it can."""
    rows = sum(len(request.told) for request in requests)
    if rows > manifest.batch and any(request.pauses for request in requests):
        return "where it is not guided its rows go into fewer calls, as the host's loop packs them"
    if rows > manifest.batch:
        return f"its {rows} rows do not fit into one call of {manifest.batch}"
    if len(requests) > 1 and _is_shared(step):
        return "the bundle's step was made for rows that are all alike; export it again"
    own = next((r.sampler.name for r in requests if isinstance(r.sampler, OwnSampler)), None)
    if own is not None:
        return f"the sampler {own} is an object of the user's"
    if any(request.init is not None and request.init.mask is not None for request in requests):
        return "a mask keeps a part of the image at every step"
    try:
        tables = [
            step_table(request.sampler, learned_variance=manifest.learn_sigma)
            for request in requests
        ]
    except NotLinear as error:
        return f"the sampler is not linear: {error}"
    needed, there = max(table.memories for table in tables), memories_of(step)
    if needed > there:
        return f"the run remembers {needed} latents and the bundle's step {there}; export it again"
    return None


@dataclass(frozen=True)
class _Lane:
    """A request in a run: its factors, what feeds its rows, and its noise's rule."""

    request: Request
    table: StepTable
    feeder: Feeder
    rule: str

    def moves_at(self, step: int) -> bool:
        return self.request.start <= step < self.request.end

    def index(self, step: int) -> int:
        """Of its own steps; before the first and after the last, the nearest."""
        return min(max(step - self.request.start, 0), self.table.steps - 1)

    def feeds(self, step: int) -> dict[str, Array]:
        told = self.request.told
        return self.feeder.rows([self.table.timesteps[self.index(step)]] * len(told), told)

    def each_row(self, array: Array) -> Array:
        """The same for each of its rows."""
        return np.broadcast_to(array, (len(self.request.told), *array.shape))

    def start(self, shape: tuple[int, int, int]) -> Latent:
        """What its images start from, for each of its rows."""
        return self._rows(self.request.begin(shape, self.rule))

    def noise(self, step: int, shape: tuple[int, int, int]) -> Latent:
        """Of its images at one of its own steps, for each of its rows."""
        return self._rows(self.request.fresh_noise(step, shape, self.rule))

    def _rows(self, drawn: Latent) -> Latent:
        return np.resize(drawn, (len(self.request.told), *drawn.shape[1:]))


class DeviceRun:
    """Requests on their way through one device.

    Rows lie as the host's loop puts them: a request's images, then the same images untold where
    they are guided, then the next request's; then rows that nobody looks at.

    Attributes:
        latent: float32 [row, channel, row, column], the noise that the run starts from.
        constants: The step's inputs that are the same at all steps, by name.
        steps: Of the loop.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        manifest: Manifest,
        step: GraphSpec,
        conditioner: Conditioner | None = None,
    ) -> None:
        """Prepare a run that `why_not_on_device` has nothing against."""
        self._shape, self._shared = manifest.latent_shape, _is_shared(step)
        self._memories = memories_of(step)
        self._lanes = [_lane(request, manifest, conditioner) for request in requests]
        used = sum(len(request.told) for request in requests)
        self._rows = np.arange(manifest.batch) % used  # what lies in each row of a call
        self.steps = max(request.end for request in requests)
        self.latent = self._fill([lane.start(self._shape) for lane in self._lanes])
        self._cfg_channels = manifest.cfg_channels
        [prediction] = manifest.denoiser(manifest.precisions[0]).outputs
        self._outputs = prediction.shape[1]
        self.constants = self._guiding_rows()

    def feeds(self, step: int) -> dict[str, Array]:
        """The denoiser's inputs at a step, without the latent."""
        parts = [lane.feeds(step) for lane in self._lanes]
        return {name: self._fill([part[name] for part in parts]) for name in parts[0]}

    def tables(self, step: int) -> dict[str, Array]:
        """The step's inputs that change from step to step, without the noise."""
        moves, deviations = [], []
        for lane in self._lanes:
            moving, index = lane.moves_at(step), lane.index(step)
            moves.append(
                _padded(lane.table.moves[index], self._memories)
                if moving
                else _stay(self._memories)
            )
            deviations.append(lane.table.deviations[index] if moving else NO_DEVIATION)
        scales = [
            lane.each_row(self._scale(lane.request, lane.index(step))) for lane in self._lanes
        ]
        if self._shared:
            return {"move": moves[0], "deviation": deviations[0], "scale": scales[0][:1]}
        rows = {"move": moves, "deviation": deviations}
        return {"scale": self._fill(scales)} | {
            name: self._fill([
                lane.each_row(array.reshape(-1, 1, 1))
                for lane, array in zip(self._lanes, arrays, strict=True)
            ])
            for name, arrays in rows.items()
        }

    def asks(self, step: int) -> bool:
        """Whether any row asks the denoiser at a step."""
        return any(
            lane.moves_at(step) and lane.table.asks[lane.index(step)] for lane in self._lanes
        )

    @property
    def stochastic(self) -> bool:
        """Whether any row takes fresh noise."""
        return any(lane.table.stochastic for lane in self._lanes)

    def noise(self, step: int) -> Latent:
        """The fresh noise of a step, as ``latent``; nought in rows that take none."""
        noise: Latent = self._fill([
            lane.noise(lane.index(step), self._shape)
            if lane.table.stochastic and lane.moves_at(step)
            else lane.each_row(np.zeros(self._shape, dtype=np.float32))
            for lane in self._lanes
        ])
        return noise

    def take_apart(self, latent: Latent) -> list[Latent]:
        """Each request's latents, of all rows'."""
        return [
            latent[start : start + lane.request.images].copy()
            for start, lane in zip(self._starts, self._lanes, strict=True)
        ]

    @property
    def _starts(self) -> list[int]:
        """The first row of each request."""
        rows = [len(lane.request.told) for lane in self._lanes]
        return [sum(rows[:place]) for place in range(len(rows))]

    def _scale(self, request: Request, step: int) -> Array:
        """How far guidance goes at one of a request's steps, float32 [output channel, 1, 1]."""
        channels = request.cfg_channels or self._cfg_channels
        scale = np.ones((self._outputs, 1, 1), dtype=np.float32)
        scale[:channels] = request.scale(step)
        return scale

    def _guiding_rows(self) -> dict[str, Array]:
        """Which rows guide which."""
        told, untold = [], []
        for start, lane in zip(self._starts, self._lanes, strict=True):
            request = lane.request
            images = start + np.arange(len(request.told), dtype=np.int32) % request.images
            told.append(images)
            untold.append(images + np.int32(request.images) if request.guided else images)
        return {"rows_with": self._fill(told), "rows_against": self._fill(untold)}

    def _fill(self, parts: Sequence[Array]) -> Any:
        """Rows of a whole call, those that nobody looks at too."""
        return np.concatenate(parts)[self._rows]


def _padded(move: Table, memories: int) -> Table:
    """A step's factors beside memories that it does not use."""
    padded = np.zeros((len(given(memories)), len(taken(memories))), dtype=np.float32)
    padded[: len(move), : move.shape[1] - 1] = move[:, :-1]
    padded[: len(move), -1] = move[:, -1]
    return padded


def _stay(memories: int) -> Table:
    """The factors of a row that stays as it is."""
    stay = np.eye(len(given(memories)), len(taken(memories)), dtype=np.float32)
    stay[1:] = np.roll(stay[1:], 1, axis=1)  # a memory lies one behind the denoiser's output
    return stay


def _lane(request: Request, manifest: Manifest, conditioner: Conditioner | None) -> _Lane:
    table = step_table(request.sampler, learned_variance=manifest.learn_sigma)
    feeder = Plain() if conditioner is None else conditioner.prepare(table.timesteps, request.told)
    return _Lane(request, table, feeder, manifest.noise)


def _is_shared(step: GraphSpec) -> bool:
    """Whether all rows move alike: so it was before schema version 3."""
    [move] = [tensor for tensor in step.inputs if tensor.name == "move"]
    return len(move.shape) == 2
