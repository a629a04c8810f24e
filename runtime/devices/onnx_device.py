"""A graph of ONNX Runtime whose inputs and outputs lie on the device, at addresses that stay.

CUDA graphs ask for that: what was captured reads and writes where it did the first time. It runs
on any device that ONNX Runtime has memory on; on the CPU it wins nothing, and is tested there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..bundle.folder import GraphFile
from ..bundle.manifest import LATENT, PREDICTION, GraphSpec, Manifest, TensorSpec
from ..sampling.conditioner import Conditioner
from ..sampling.device_run import NOISE, DeviceRun, carried, why_not_on_device
from ..sampling.loop import Loop, OnStep
from ..sampling.request import Request
from ..sampling.sampler import Latent
from ..session import Array

OpenStep = Callable[[GraphFile], Any]
"""Opens the step's graph on the same device, as an ``onnxruntime.InferenceSession``."""

KEPT = "kept_latent"  # next_latent once more: the other one lies where the denoiser reads


def empty(tensor: TensorSpec, device: str) -> Any:
    """Room for a tensor, as an ``onnxruntime.OrtValue``."""
    import onnxruntime

    dtype = np.dtype(tensor.dtype).type
    return onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(tensor.shape), dtype, device, 0)


def put(value: Any, array: Array, dtype: str) -> None:
    """Copy an array to where a value lies."""
    value.update_inplace(np.ascontiguousarray(array, dtype=dtype))


class DeviceOnnxSession:
    """A graph whose tensors have their place on a device."""

    def __init__(self, session: Any, spec: GraphSpec, device: str, open_step: OpenStep) -> None:
        """Take an opened graph.

        Args:
            session: An ``onnxruntime.InferenceSession``.
            spec: Of the graph.
            device: As ONNX Runtime names its memory: ``cuda`` or ``cpu``.
            open_step: For a loop beside it.
        """
        self._session, self._memory, self._open_step = session, device, open_step
        self.spec = spec
        self.values = {
            tensor.name: empty(tensor, device) for tensor in (*spec.inputs, *spec.outputs)
        }
        self._binding = bind(session, spec, self.values)

    @property
    def device(self) -> str:
        return str(self._session.get_providers()[0])

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self.feed(feeds)
        self.call()
        return {
            tensor.name: np.array(self.values[tensor.name].numpy()) for tensor in self.spec.outputs
        }

    def feed(self, feeds: Mapping[str, Array]) -> None:
        """Copy inputs to the device."""
        for tensor in self.spec.inputs:
            if tensor.name in feeds:
                put(self.values[tensor.name], feeds[tensor.name], tensor.dtype)

    def call(self) -> None:
        """Run on what lies on the device."""
        self._session.run_with_iobinding(self._binding)

    def open_loop(
        self, manifest: Manifest, step: GraphFile, conditioner: Conditioner | None
    ) -> Loop:
        session = self._open_step(step)
        return OnnxLoop(self, session, step.spec, self._memory, manifest, conditioner)

    def close(self) -> None:
        self._binding = self._session = None
        self.values = {}


class OnnxLoop:
    """A denoiser and its step, the latents in turn in two places.

    The denoiser has one set of addresses, so that its CUDA graph stays true. The step reads what
    the step before kept, and writes to the other place.
    """

    keeps_latents = True

    def __init__(
        self,
        denoiser: DeviceOnnxSession,
        session: Any,
        spec: GraphSpec,
        device: str,
        manifest: Manifest,
        conditioner: Conditioner | None = None,
    ) -> None:
        self._manifest, self._spec = manifest, spec
        self._denoiser, self._session, self._conditioner = denoiser, session, conditioner
        self._inputs = {tensor.name: tensor for tensor in spec.inputs}
        self._carried = carried(spec)
        tensors = {**self._inputs, **{tensor.name: tensor for tensor in spec.outputs}}
        self._fed = {
            name: empty(tensors[name], device)
            for name in self._inputs
            if name not in {PREDICTION, *self._carried}
        }
        self._places = [
            {name: empty(tensors[name], device) for name in self._carried} for _ in range(2)
        ]
        self._bindings = [
            bind(session, spec, self._values(before, after))
            for before, after in (self._places, self._places[::-1])
        ]

    def why_not(self, requests: Sequence[Request]) -> str | None:
        return why_not_on_device(requests, self._manifest, self._spec)

    def draw(
        self, requests: Sequence[Request], on_step: OnStep, *, look: bool = False
    ) -> list[Latent]:
        run = DeviceRun(requests, self._manifest, self._spec, self._conditioner)
        self._start(run)
        for step in range(run.steps):
            if run.asks(step):
                self._denoiser.feed(run.feeds(step))
                self._denoiser.call()
            self._feed(run.tables(step))
            if run.stochastic:
                self._feed({NOISE: run.noise(step)})
            self._session.run_with_iobinding(self._bindings[step % 2])
            on_step(run.take_apart(self._latent()) if look else ())
        return run.take_apart(self._latent())

    def _latent(self) -> Latent:
        return np.array(self._denoiser.values[LATENT].numpy())

    def _values(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
        """Where each tensor of the step lies when it goes from one place to the other."""
        return {
            **self._fed,
            **before,
            PREDICTION: self._denoiser.values[PREDICTION],
            **{given: after[name] for name, given in self._carried.items()},
            KEPT: after[LATENT],
            self._carried[LATENT]: self._denoiser.values[LATENT],
        }

    def _start(self, run: DeviceRun) -> None:
        nothing = np.zeros_like(run.latent)
        self._denoiser.feed({LATENT: run.latent})
        put(self._denoiser.values[PREDICTION], np.zeros(self._inputs[PREDICTION].shape), "float32")
        for name, value in self._places[0].items():
            put(value, run.latent if name == LATENT else nothing, "float32")
        self._feed({NOISE: nothing, **run.constants})

    def _feed(self, feeds: Mapping[str, Array]) -> None:
        for name, array in feeds.items():
            if name in self._inputs:  # no deviation where no variance is learned
                put(self._fed[name], array, self._inputs[name].dtype)


def bind(session: Any, spec: GraphSpec, values: Mapping[str, Any]) -> Any:
    """An IO binding of all of a graph's inputs and outputs."""
    binding = session.io_binding()
    for tensor in spec.inputs:
        binding.bind_ortvalue_input(tensor.name, values[tensor.name])
    for tensor in spec.outputs:
        binding.bind_ortvalue_output(tensor.name, values[tensor.name])
    return binding
