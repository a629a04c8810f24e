"""Make a benchmark's contender ready to draw: a bundle's graphs on a backend, or PyTorch."""

from __future__ import annotations

from ...runtime.backends import choose_backend
from ...runtime.bundle.folder import Bundle, open_bundle
from ...runtime.opened import open_chosen
from .contender import COMPILED, Contender
from .timed_run import Ready


def open_contender(contender: Contender, bundle: Bundle | None = None) -> Ready:
    """Make a contender ready to draw.

    Args:
        contender: What to open.
        bundle: Its bundle, where that is open already.

    Raises:
        PitstopError: The bundle or the checkpoint cannot be read, or cannot run here.
    """
    bundle = bundle or open_bundle(contender.folder, every_file=False)
    if contender.is_torch:
        from .torch_rows import open_torch

        session = open_torch(
            contender.checkpoint,
            bundle.manifest,
            contender.precision,
            compiled=contender.backend == COMPILED,
            threads=contender.options.threads,
        )
        return Ready(bundle.manifest, contender.precision, session)
    chosen = choose_backend(contender.backend, contender.options)
    graphs = open_chosen(bundle, contender.precision, chosen, contender.options)
    return Ready(
        bundle.manifest,
        contender.precision,
        graphs.denoiser,
        graphs.conditioner,
        graphs.loop if graphs.loop.keeps_latents else None,
        graphs.decode,
        bundle,
        contender.calls,
        contender.cfg_interval,
    )
