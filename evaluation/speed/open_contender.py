"""Make a benchmark's subject ready to draw: a bundle's graphs on a backend, or PyTorch."""

from __future__ import annotations

from ...runtime.backend import Backend, Session
from ...runtime.backends import import_backend
from ...runtime.bundle.folder import Bundle, open_bundle
from ...runtime.bundle.manifest import CONDITIONER, GraphSpec
from ...runtime.pipeline import beside, open_decoder
from .contender import COMPILED, Subject
from .timed_run import Opened


def open_subject(subject: Subject, bundle: Bundle | None = None) -> Opened:
    """Make a subject ready to draw.

    Args:
        subject: What to open.
        bundle: Its bundle, where that is open already.

    Raises:
        PitstopError: The bundle or the checkpoint cannot be read, or cannot run here.
    """
    bundle = bundle or open_bundle(subject.folder)
    if subject.is_torch:
        from .torch_rows import open_torch

        session = open_torch(
            subject.checkpoint,
            bundle.manifest,
            subject.precision,
            compiled=subject.backend == COMPILED,
            threads=subject.options.threads,
        )
        return Opened(bundle.manifest, subject.precision, session)
    return _open_graphs(subject, bundle)


def _open_graphs(subject: Subject, bundle: Bundle) -> Opened:
    backend, options = import_backend(subject.backend), subject.options

    other = beside(backend)

    def open_graph(backend: Backend, spec: GraphSpec) -> Session:
        return backend.open_graph(bundle.path(spec.path), spec, options)

    denoiser = open_graph(backend, bundle.manifest.denoiser(subject.precision))
    decode = open_decoder(bundle, subject.precision, other, options)
    spec = bundle.manifest.graphs.get(CONDITIONER)
    if spec is None:
        return Opened(bundle.manifest, subject.precision, denoiser, decode=decode)
    return Opened(
        bundle.manifest, subject.precision, denoiser, lambda: open_graph(other, spec), spec, decode
    )
