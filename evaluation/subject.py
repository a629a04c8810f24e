"""What a benchmark measures, in words that another process can be told."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from ..runtime.backend import Session, SessionOptions
from ..runtime.backends import import_backend
from ..runtime.bundle import Bundle, open_bundle
from ..runtime.manifest import CONDITIONER, GraphSpec
from ..runtime.pipeline import open_decoder
from .turn import Opened

EAGER, COMPILED = "torch eager", "torch compile"
TORCH = (EAGER, COMPILED)


@dataclass(frozen=True)
class Subject:
    """A model and what runs it.

    Attributes:
        folder: The bundle; for PyTorch's, the one whose batch and schedule it runs with.
        backend: A backend's name, or one of `TORCH`.
        precision: Of the denoiser.
        options: Of the sessions.
        checkpoint: A path or a preset's name, where PyTorch runs it.
    """

    folder: Path
    backend: str
    precision: str
    options: SessionOptions = field(default_factory=SessionOptions)
    checkpoint: str = ""

    @property
    def is_torch(self) -> bool:
        return self.backend in TORCH

    def to_json(self) -> str:
        return json.dumps({**dataclasses.asdict(self), "folder": str(self.folder)})

    @classmethod
    def from_json(cls, text: str) -> Subject:
        """Read what `to_json` wrote."""
        values = json.loads(text)
        options = SessionOptions(**values.pop("options"))
        return cls(**{**values, "folder": Path(values["folder"]), "options": options})


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

    def open_graph(spec: GraphSpec) -> Session:
        return backend.open_graph(bundle.path(spec.path), spec, options)

    denoiser = open_graph(bundle.manifest.denoiser(subject.precision))
    decode = open_decoder(bundle, subject.precision, backend, options)
    spec = bundle.manifest.graphs.get(CONDITIONER)
    if spec is None:
        return Opened(bundle.manifest, subject.precision, denoiser, decode=decode)
    return Opened(
        bundle.manifest, subject.precision, denoiser, lambda: open_graph(spec), spec, decode
    )
