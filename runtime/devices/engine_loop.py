"""The sampling loop on TensorRT: one CUDA graph a step, and the host only says "next".

The graph holds the denoiser, the step and the way back of what the step carries. Before it, the
stream copies the step's modulations and coefficients to where the graph reads them, from tables
that lie on the device too. Fresh noise comes from the host, through pinned memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from ..backend import Array
from ..bundle.manifest import TensorSpec
from ..sampling.device_run import CARRIED, LATENT, NOISE, PREDICTION, Run
from ..sampling.sampler import Latent
from .cuda import Cuda, as_fed
from .engine_session import EngineSession, size_of

TABLE_BYTES = 256 << 20  # of device memory for the steps' tables; longer runs fill them again
UNDER_WAY = 2  # steps that the device may be behind the host


class EngineLoop:
    """A denoiser and its step, in one stream."""

    def __init__(self, denoiser: EngineSession, step: EngineSession, cuda: Cuda) -> None:
        self._denoiser, self._step, self._cuda = denoiser, step, cuda
        self._tensors = {tensor.name: tensor for tensor in step.spec.inputs}
        denoiser.place(LATENT, step.places[LATENT])
        step.place(PREDICTION, denoiser.places[PREDICTION])
        noise = size_of(self._tensors[NOISE])
        self._pinned = [cuda.pin(noise) for _ in range(UNDER_WAY + 1)]
        self._tables: _Tables | None = None
        self._next: Callable[[], None] | None = None

    def sample(self, run: Run, on_step: Callable[[], None]) -> Latent:
        tables = self._tables_for(run)
        if self._next is None:
            self._next = self._capture(run)
        self._start(run)
        marks: deque[Any] = deque()
        for step in range(run.program.steps):
            if len(marks) == UNDER_WAY:
                self._cuda.wait_for(marks.popleft())
                on_step()
            tables.give(run, step)
            if run.noise is not None:
                pinned = self._pinned[step % len(self._pinned)]
                noise = as_fed(run.noise(step), "float32")
                self._cuda.upload_pinned(self._step.places[NOISE], pinned, noise)
            self._next()
            marks.append(self._cuda.mark())
        for mark in marks:
            self._cuda.wait_for(mark)
            on_step()
        latent = np.empty_like(run.latent)
        self._cuda.download(latent, self._step.places[LATENT])
        self._cuda.wait()
        return latent

    def _capture(self, run: Run) -> Callable[[], None]:
        """One step as a CUDA graph, after one call: the first makes what a capture must not.

        Where it cannot be captured, a step is told to the stream call by call.
        """
        self._start(run)
        self._one_step()
        self._cuda.wait()
        may_be = self._denoiser.is_capturable() and self._step.is_capturable()
        graph = self._cuda.capture(self._one_step) if may_be else None
        return self._one_step if graph is None else partial(self._cuda.launch, graph)

    def _one_step(self) -> None:
        self._denoiser.enqueue()
        self._step.enqueue()
        for name, given in CARRIED.items():
            places = self._step.places
            self._cuda.move(places[name], places[given], size_of(self._tensors[name]))

    def _start(self, run: Run) -> None:
        """Put what the run starts from where the graph reads it."""
        for name in (*CARRIED, NOISE):
            self._cuda.clear(self._step.places[name], size_of(self._tensors[name]))
        self._feed({LATENT: run.latent, **run.constants})

    def _feed(self, feeds: Mapping[str, Array]) -> None:
        for name, array in feeds.items():
            fed = as_fed(array, self._tensors[name].dtype)
            self._cuda.upload(self._step.places[name], fed)

    def _tables_for(self, run: Run) -> _Tables:
        """The tables of this length, made once."""
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
        self._steps = max(1, TABLE_BYTES // row_bytes)
        self._places: dict[str, int] = {}
        self._held = range(0)

    def forget(self) -> None:
        """Another run begins."""
        self._held = range(0)

    def give(self, run: Run, step: int) -> None:
        """Copy a step's row of every table to where the graph reads it."""
        if step not in self._held:
            self._fill(run, range(step, min(step + self._steps, run.program.steps)))
        for name, (tensor, place) in self._inputs.items():
            row = self._places[name] + (step - self._held.start) * size_of(tensor)
            self._cuda.move(place, row, size_of(tensor))

    def _fill(self, run: Run, steps: range) -> None:
        """Upload the rows of some steps, each as soon as it is made."""
        if not self._places:
            rows = min(self._steps, run.program.steps)
            self._steps = rows
            self._places = {
                name: self._cuda.allocate(rows * size_of(tensor))
                for name, (tensor, _) in self._inputs.items()
            }
        self._held = steps
        for index, step in enumerate(steps):
            feeds = {**run.feeds(step), **run.tables(step)}
            for name, (tensor, _) in self._inputs.items():
                place = self._places[name] + index * size_of(tensor)
                self._cuda.upload(place, as_fed(feeds[name], tensor.dtype))
