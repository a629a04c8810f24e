"""Make a benchmark's subject ready to draw: a bundle's graphs on a backend, or PyTorch."""

from __future__ import annotations

from ...runtime.backends import choose_backend
from ...runtime.bundle.folder import Bundle, open_bundle
from ...runtime.opened import open_chosen
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
    chosen = choose_backend(subject.backend, subject.options)
    graphs = open_chosen(bundle, subject.precision, chosen, subject.options)
    return Opened(
        bundle.manifest,
        subject.precision,
        graphs.denoiser,
        graphs.conditioner,
        graphs.loop if graphs.loop.keeps_latents else None,
        graphs.decode,
    )
