"""The sampling loop on TensorRT: one CUDA graph a step, and the host only says "next".

The graph holds the denoiser, the step and the way back of what the step carries. Before it, the
stream copies the step's modulations and coefficients to where the graph reads them, from tables
that lie on the device too. Fresh noise comes from the host, through pinned memory.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..bundle.manifest import LATENT, PREDICTION, Manifest, TensorSpec
from ..sampling.conditioner import Conditioner
from ..sampling.device_run import NOISE, DeviceRun, carried, why_not_on_device
from ..sampling.loop import OnStep
from ..sampling.request import Request
from ..sampling.sampler import Latent
from ..session import Array
from .cuda import Cuda, as_fed
from .engine_session import EngineSession, size_of

TABLE_BYTES = 256 << 20  # of device memory for the steps' tables; longer runs fill them again
UNDER_WAY = 2  # steps that the device may be behind the host


class EngineLoop:
    """A denoiser and its step, in one stream."""

    keeps_latents = True

    def __init__(
        self,
        denoiser: EngineSession,
        step: EngineSession,
        cuda: Cuda,
        manifest: Manifest,
        conditioner: Conditioner | None = None,
    ) -> None:
        self._denoiser, self._step, self._cuda = denoiser, step, cuda
        self._manifest, self._conditioner = manifest, conditioner
        self._tensors = {tensor.name: tensor for tensor in step.spec.inputs}
        self._carried = carried(step.spec)
        denoiser.place(LATENT, step.places[LATENT])
        step.place(PREDICTION, denoiser.places[PREDICTION])
        noise = size_of(self._tensors[NOISE])
        self._pinned = [cuda.pin(noise) for _ in range(UNDER_WAY + 1)]
        self._tables: _Tables | None = None
        self._next: dict[bool, Callable[[], None]] = {}  # by whether the denoiser is asked

    def why_not(self, requests: Sequence[Request]) -> str | None:
        return why_not_on_device(requests, self._manifest, self._step.spec)

    def draw(
        self, requests: Sequence[Request], on_step: OnStep, *, look: bool = False
    ) -> list[Latent]:
        run = DeviceRun(requests, self._manifest, self._step.spec, self._conditioner)
        tables = self._tables_for(run)
        for asks in {run.asks(step) for step in range(run.steps)} - self._next.keys():
            self._next[asks] = self._capture(run, asks)
        self._start(run)
        with self._marks() as marks:
            for step in range(run.steps):
                if len(marks) == UNDER_WAY:
                    self._cuda.wait_for(marks.popleft())
                    on_step(())
                self._tell(run, step, tables)
                if look:
                    on_step(run.take_apart(self._latent()))
                else:
                    marks.append(self._cuda.mark())
            while marks:
                self._cuda.wait_for(marks.popleft())
                on_step(())
        return run.take_apart(self._latent())

    def _tell(self, run: DeviceRun, step: int, tables: _Tables) -> None:
        """Tell the stream to take a step."""
        tables.give(run, step)
        if run.stochastic:
            pinned = self._pinned[step % len(self._pinned)]
            noise = as_fed(run.noise(step), "float32")
            self._cuda.upload_pinned(self._step.places[NOISE], pinned, noise)
        self._next[run.asks(step)]()

    @contextlib.contextmanager
    def _marks(self) -> Iterator[deque[Any]]:
        """Events that the host waits for, in the stream's order: all, whoever interrupts."""
        marks: deque[Any] = deque()
        try:
            yield marks
        finally:
            for mark in marks:
                self._cuda.wait_for(mark)

    def _latent(self) -> Latent:
        """The latents of all rows, after what the stream was told."""
        latent = np.empty(self._tensors[LATENT].shape, dtype=np.float32)
        self._cuda.download(latent, self._step.places[LATENT])
        self._cuda.wait()
        return latent

    def _capture(self, run: DeviceRun, asks: bool) -> Callable[[], None]:
        """One step as a CUDA graph, after one call: the first makes what a capture must not.

        Where it cannot be captured, a step is told to the stream call by call.
        """
        self._start(run)
        self._one_step(asks)
        self._cuda.wait()
        one_step = partial(self._one_step, asks)
        may_be = self._denoiser.is_capturable() and self._step.is_capturable()
        graph = self._cuda.capture(one_step) if may_be else None
        return one_step if graph is None else partial(self._cuda.launch, graph)

    def _one_step(self, asks: bool) -> None:
        if asks:
            self._denoiser.enqueue()
        self._step.enqueue()
        for name, given in self._carried.items():
            places = self._step.places
            self._cuda.move(places[name], places[given], size_of(self._tensors[name]))

    def _start(self, run: DeviceRun) -> None:
        """Put what the run starts from where the graph reads it."""
        for name in (
            *self._carried,
            NOISE,
            PREDICTION,
        ):  # a step that asks for none takes none of it
            self._cuda.clear(self._step.places[name], size_of(self._tensors[name]))
        self._feed({LATENT: run.latent, **run.constants})

    def _feed(self, feeds: Mapping[str, Array]) -> None:
        for name, array in feeds.items():
            fed = as_fed(array, self._tensors[name].dtype)
            self._cuda.upload(self._step.places[name], fed)

    def _tables_for(self, run: DeviceRun) -> _Tables:
        """The tables of the steps, made once."""
        if self._tables is None:
            sides = (self._denoiser, self._step)
            changing = {**run.feeds(0), **run.tables(0)}
            inputs = {
                tensor.name: (tensor, side.places[tensor.name])
                for side in sides
                for tensor in side.spec.inputs
                if tensor.name in changing
            }
            self._tables = _Tables(self._cuda, inputs)
        self._tables.forget()
        return self._tables


class _Tables:
    """What changes from step to step, for as many steps as fit."""

    def __init__(self, cuda: Cuda, inputs: Mapping[str, tuple[TensorSpec, int]]) -> None:
        self._cuda, self._inputs = cuda, inputs
        row_bytes = sum(size_of(tensor) for tensor, _ in inputs.values())
        self._most = max(1, TABLE_BYTES // row_bytes)
        self._room = 0  # in steps
        self._places: dict[str, int] = {}
        self._held = range(0)

    def forget(self) -> None:
        """Another run begins."""
        self._held = range(0)

    def give(self, run: DeviceRun, step: int) -> None:
        """Copy a step's row of every table to where the graph reads it."""
        if step not in self._held:
            self._make_room(min(self._most, run.steps))
            self._fill(run, range(step, min(step + self._room, run.steps)))
        for name, (tensor, place) in self._inputs.items():
            row = self._places[name] + (step - self._held.start) * size_of(tensor)
            self._cuda.move(place, row, size_of(tensor))

    def _make_room(self, steps: int) -> None:
        """Let the tables grow with the longest run."""
        if steps <= self._room:
            return
        self._room, self._held = 0, range(0)  # whatever fails now, no freed place is read
        while self._places:
            _, place = self._places.popitem()
            self._cuda.free(place)
        for name, (tensor, _) in self._inputs.items():
            self._places[name] = self._cuda.allocate(steps * size_of(tensor))
        self._room = steps

    def _fill(self, run: DeviceRun, steps: range) -> None:
        """Upload the rows of some steps, each as soon as it is made."""
        self._held = steps
        for index, step in enumerate(steps):
            feeds = {**run.feeds(step), **run.tables(step)}
            for name, (tensor, _) in self._inputs.items():
                place = self._places[name] + index * size_of(tensor)
                self._cuda.upload(place, as_fed(feeds[name], tensor.dtype))
