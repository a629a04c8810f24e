"""What a benchmark measures, in words that another process can be told."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from ...runtime.backend import SessionOptions

EAGER, COMPILED = "torch eager", "torch compile"
TORCH = (EAGER, COMPILED)


@dataclass(frozen=True)
class Contender:
    """A model and what runs it.

    Attributes:
        folder: The bundle; for PyTorch's, the one whose batch and schedule it runs with.
        backend: A backend's name, or one of `TORCH`.
        precision: Of the denoiser.
        options: Of the sessions.
        checkpoint: A path or a preset's name, where PyTorch runs it.
        calls: Steps that call the denoiser, the others forecast; None for all.
        cfg_interval: Where the run is guided; None for everywhere.
    """

    folder: Path
    backend: str
    precision: str
    options: SessionOptions = field(default_factory=SessionOptions)
    checkpoint: str = ""
    calls: int | None = None
    cfg_interval: str | None = None

    @property
    def is_torch(self) -> bool:
        return self.backend in TORCH

    def to_json(self) -> str:
        return json.dumps({**dataclasses.asdict(self), "folder": str(self.folder)})

    @classmethod
    def from_json(cls, text: str) -> Contender:
        """Read what `to_json` wrote."""
        values = json.loads(text)
        options = SessionOptions(**values.pop("options"))
        return cls(**{**values, "folder": Path(values["folder"]), "options": options})
