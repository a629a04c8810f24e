"""An opened bundle: its graphs by their roles, on one backend, opened once and closed together."""

from __future__ import annotations

import contextlib
import dataclasses

from .. import PitstopError
from .backend import Backend, SessionOptions
from .backends import AUTO, Choice, candidates, choose_backend, load_backend
from .bundle.folder import Bundle
from .bundle.manifest import CONDITIONER, ENCODER, STEP
from .decoder import TiledDecoder
from .devices.engine_check import engines_here
from .encoder import TiledEncoder
from .sampling.conditioner import Conditioner
from .sampling.device_first import DeviceFirst
from .sampling.device_run import KeepsLatents
from .sampling.host_loop import HostLoop
from .sampling.loop import Loop
from .session import Closing, Session, SharedSession


class OpenedBundle(Closing):
    """A denoiser that is open, with its loop and with what is opened before and after the loop.

    It may be used from several threads: each draws what it would draw alone.

    Attributes:
        bundle: Whose graphs they are.
        precision: Of the denoiser.
        denoiser: The graph that runs at every step.
        conditioner: Makes what the denoiser is fed beside the latent, where the graph was split.
        loop: The fastest way from noise to latents that the denoiser has.
        decode: From latents to pixels, where there is a decoder.
        encode: From pixels to latents, where there is an encoder.
        chosen: The backend, and why it was taken.
    """

    def __init__(
        self,
        bundle: Bundle,
        precision: str,
        denoiser: Session,
        chosen: Choice,
        options: SessionOptions,
    ) -> None:
        """Take an opened denoiser, which needs not be one of the bundle's own.

        Args:
            bundle: Its conditioner, step and decoder stand beside the denoiser.
            precision: Of the denoiser.
            denoiser: Closed with the rest.
            chosen: What opened it.
            options: Of the graphs beside it.
        """
        manifest = bundle.manifest
        self.bundle, self.precision, self.chosen = bundle, precision, chosen
        self._options = options
        self.denoiser = SharedSession(denoiser)
        self.conditioner = conditioner_of(bundle, chosen.backend, options)
        host = HostLoop(manifest, self.denoiser, self.conditioner)
        device = self._device_loop(denoiser)
        self.loop: Loop = host if device is None else DeviceFirst(device, host, self.denoiser)
        self.decode = self._decoder()
        self.encode = self._encoder()

    def close(self) -> None:
        """Give all memory back; a second time does nothing."""
        self.denoiser.close()
        if self.decode is not None:
            self.decode.close()
        if self.conditioner is not None:
            self.conditioner.close()

    def _device_loop(self, denoiser: Session) -> Loop | None:
        manifest = self.bundle.manifest
        if STEP not in manifest.graphs or not isinstance(denoiser, KeepsLatents):
            return None
        return denoiser.open_loop(manifest, self.bundle.graph(STEP), self.conditioner)

    def _decoder(self) -> TiledDecoder | None:
        name = self.bundle.manifest.decoder_name(self.precision)
        if name is None:
            return None
        graph = self.bundle.graph(name)
        return TiledDecoder(
            lambda: beside(self.chosen.backend).open_graph(graph, self._options),
            graph.spec,
            self.bundle.manifest,
        )

    def _encoder(self) -> TiledEncoder | None:
        if ENCODER not in self.bundle.manifest.graphs:
            return None
        graph = self.bundle.graph(ENCODER)
        return TiledEncoder(
            lambda: beside(self.chosen.backend).open_graph(graph, self._options),
            graph.spec,
            self.bundle.manifest,
        )


def open_denoiser(
    bundle: Bundle,
    precision: str | None = None,
    backend: str = AUTO,
    options: SessionOptions | None = None,
) -> OpenedBundle:
    """Open a bundle's denoiser with what stands beside it.

    Args:
        bundle: Whose files were checked.
        precision: ``fp32``, ``fp16``, ...; None takes the most exact that there is.
        backend: A name, or ``auto``, which goes on to the next where an engine does not load.
        options: Execution provider and threads.

    Raises:
        PitstopError: What was asked for is not to be had here.
    """
    options = options or SessionOptions()
    precision = bundle.manifest.precisions[0] if precision is None else precision
    bundle.manifest.denoiser(precision)  # refuses one that is not there, whatever the backend
    if backend != AUTO:
        return open_chosen(bundle, precision, choose_backend(backend, options), options)
    failed, refusals = "", []
    for choice in candidates(options, engines_here(bundle, precision)):
        try:
            said = dataclasses.replace(choice, why=f"{failed}{choice.why}")
            return open_chosen(bundle, precision, said, options)
        except PitstopError as error:
            if not choice.backend.NEEDS_ENGINE:
                raise
            refusals.append(error)
            failed += f"the engine of {choice.name} does not load ({error.problem}); "
    raise refusals[-1]


def open_chosen(
    bundle: Bundle, precision: str, chosen: Choice, options: SessionOptions
) -> OpenedBundle:
    """Open a bundle's denoiser on a backend that was chosen."""
    bundle.manifest.denoiser(precision)
    denoiser = chosen.backend.open_graph(bundle.graph(f"denoiser.{precision}"), options)
    with contextlib.ExitStack() as opening:
        opening.callback(denoiser.close)
        opened = OpenedBundle(bundle, precision, denoiser, chosen, options)
        opening.pop_all()
    return opened


def conditioner_of(bundle: Bundle, backend: Backend, options: SessionOptions) -> Conditioner | None:
    """A bundle's conditioner, beside a denoiser on a backend; None where the graph is whole."""
    if CONDITIONER not in bundle.manifest.graphs:
        return None
    graph = bundle.graph(CONDITIONER)
    return Conditioner(lambda: beside(backend).open_graph(graph, options), graph.spec)


def beside(backend: Backend) -> Backend:
    """What runs the graphs outside the loop, which are asked once and get no engine."""
    return load_backend("onnxruntime") if backend.NEEDS_ENGINE else backend
