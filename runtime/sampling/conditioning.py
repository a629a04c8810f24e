"""The modulations of all steps, before the loop.

What a denoiser makes of (timestep, label) alone is the same at every step of every image with
that label, so the conditioner is asked once for all of it, many rows a call, and its weights, a
third of the model, are given back before the loop. Where the modulations of a whole run would not
fit, they are made in chunks of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..backend import Array, Session
from ..bundle.manifest import GraphSpec

Modulation = npt.NDArray[np.float32]

CHUNK_BYTES = 256 << 20  # of modulations held at a time: 250 guided steps of PiT-XL need 390 MB


class ConditionedSession:
    """A conditioner and a denoiser as one session with the inputs latent, timestep and label.

    `prepare` says which steps and labels come; without it, or beside them, each call makes what
    it needs.
    """

    def __init__(
        self,
        open_conditioner: Callable[[], Session],
        spec: GraphSpec,
        denoiser: Session,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        """Take the two graphs.

        Args:
            open_conditioner: Opens the conditioner, when there is something to ask it.
            spec: Of the conditioner: its inputs timestep and label [row], its output modulation
                [row, chunk, channel].
            denoiser: Opened, with the inputs latent and modulation.
            chunk_bytes: How much of the modulations is held at a time; one step at least.
        """
        self._open_conditioner = open_conditioner
        self._spec = spec
        _, *self._shape = spec.outputs[0].shape
        self.denoiser = denoiser
        self._chunk_bytes = chunk_bytes
        self._steps: list[float] = []
        self._labels: list[int] = []
        self._place: dict[tuple[float, int], int] = {}
        self._held = np.empty((0, *self._shape), dtype=np.float32)

    @property
    def device(self) -> str:
        return self.denoiser.device

    def prepare(self, timesteps: Iterable[float], labels: Iterable[int]) -> None:
        """Make the modulations of a run, or of as many of its first steps as fit."""
        self._steps = list(dict.fromkeys(map(as_fed, timesteps)))  # a rule may visit one twice
        self._labels = sorted({int(label) for label in labels})
        pairs = [(step, label) for step in self._steps for label in self._labels]
        if not all(pair in self._place for pair in pairs):
            self._make(self._steps, self._labels)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        modulation = self.modulation(feeds["timestep"].tolist(), feeds["label"].tolist())
        return self.denoiser.run({"latent": feeds["latent"], "modulation": modulation})

    def modulation(self, steps: Sequence[float], labels: Sequence[int]) -> Modulation:
        """The modulations of rows, float32 [row, chunk, channel]."""
        pairs = [(as_fed(step), int(label)) for step, label in zip(steps, labels, strict=True)]
        if not all(pair in self._place for pair in pairs):
            self._make_for(pairs)
        places = [self._place[pair] for pair in pairs]
        first, last = places[0], places[-1]
        if places == list(range(first, last + 1)):  # one guided image: nothing to copy
            return self._held[first : last + 1]
        return self._held[places]

    def close(self) -> None:
        self._forget()
        self.denoiser.close()

    def _forget(self) -> None:
        self._place, self._held = {}, np.empty((0, *self._shape), dtype=np.float32)

    def _make_for(self, pairs: list[tuple[float, int]]) -> None:
        """Make what a call lacks: the next chunk of the run, or just this call's rows."""
        steps, labels = {step for step, _ in pairs}, {label for _, label in pairs}
        if len(steps) == 1 and labels <= set(self._labels) and steps <= set(self._steps):
            [step] = steps
            self._make(self._steps[self._steps.index(step) :], self._labels)
        else:
            self._make(sorted(steps), sorted(labels))

    def _make(self, steps: list[float], labels: list[int]) -> None:
        row_bytes = 4 * int(np.prod(self._shape))
        fitting = max(1, self._chunk_bytes // (row_bytes * len(labels)))
        pairs = [(step, label) for step in steps[:fitting] for label in labels]
        self._forget()  # before the next are made
        self._held = self._ask(pairs)
        self._place = {pair: index for index, pair in enumerate(pairs)}

    def _ask(self, pairs: list[tuple[float, int]]) -> Modulation:
        timesteps = np.array([step for step, _ in pairs], dtype=np.float32)
        labels = np.array([label for _, label in pairs], dtype=np.int64)
        conditioner = self._open_conditioner()
        try:
            return ask_conditioner(conditioner, self._spec, timesteps, labels)
        finally:
            conditioner.close()


def as_fed(timestep: float) -> float:
    """A timestep as the denoiser's float32 input holds it, so that it is found again."""
    return float(np.float32(timestep))


def ask_conditioner(
    conditioner: Session,
    spec: GraphSpec,
    timesteps: npt.NDArray[np.number[Any]],
    labels: npt.NDArray[np.int64],
) -> Modulation:
    """The modulations of pairs of timestep [row] and label [row], the last call padded.

    Returns:
        float32 [row, chunk, channel].
    """
    rows, *shape = spec.outputs[0].shape
    made = np.empty((len(labels), *shape), dtype=np.float32)
    for start in range(0, len(labels), rows):
        asked = slice(start, start + rows)
        missing = rows - len(labels[asked])
        feeds: dict[str, Array] = {
            "timestep": np.pad(timesteps[asked], (0, missing), mode="edge").astype(np.float32),
            "label": np.pad(labels[asked], (0, missing), mode="edge"),
        }
        made[asked] = conditioner.run(feeds)["modulation"][: rows - missing]
    return made
