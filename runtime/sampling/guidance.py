"""One denoiser call for a batch of images: guidance, padding to the traced batch, the split.

Classifier-free guidance (Ho & Salimans, 2022) runs each image with its label and with the null
class in the same call, and goes on from the second to the first by the guidance scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ... import OptionError
from ..backend import Array, Session
from ..bundle.manifest import Manifest
from .sampler import Latent, Prediction

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class GuidedDenoiser:
    """A denoiser with its labels and guidance scale filled in.

    Attributes:
        session: A graph with the inputs latent, timestep and label.
        manifest: What the graph was traced for.
        labels: A class for each image.
        cfg_scale: 1 is no guidance, and costs half.
    """

    session: Session
    manifest: Manifest
    labels: Sequence[int]
    cfg_scale: float

    def __post_init__(self) -> None:
        if self.guided and self.manifest.null_class is None:
            raise OptionError(
                f"A guidance scale of {self.cfg_scale} was asked for, but this model was trained "
                "without label dropout",
                "Use `--cfg-scale 1`",
            )

    @property
    def guided(self) -> bool:
        return self.cfg_scale != 1.0

    @property
    def all_labels(self) -> Labels:
        """int64 [row]: the images' labels, and the null class for each where they are guided."""
        labels = np.asarray(self.labels, dtype=np.int64)
        if not self.guided:
            return labels
        return np.concatenate([labels, np.full_like(labels, self.manifest.null_class)])

    def __call__(self, latent: Latent, timestep: float) -> Prediction:
        """Predict noise or velocity in a latent [image, channel, row, column] at ``timestep``."""
        rows = np.concatenate([latent, latent]) if self.guided else latent
        output = run_rows(self.session, self.manifest.batch, rows, timestep, self.all_labels)
        if not self.guided:
            return self._split(output)
        output, unguided = np.split(output, 2)
        channels = self.manifest.cfg_channels
        output[:, :channels] = unguided[:, :channels] + self.cfg_scale * (
            output[:, :channels] - unguided[:, :channels]
        )
        return self._split(output)

    def _split(self, output: Latent) -> Prediction:
        if not self.manifest.learn_sigma:
            return Prediction(output)
        return Prediction(*np.split(output, 2, axis=1))


def run_rows(
    session: Session, batch: int, latent: Latent, timestep: float, labels: Labels
) -> Latent:
    """Run as many calls of the traced batch as the rows need, the last row filling up the last one.

    Args:
        session: The denoiser.
        batch: Rows that it was traced for.
        latent: float32 [row, channel, ...].
        timestep: The same for all rows.
        labels: int64 [row].

    Returns:
        The raw prediction, float32 [row, output channel, ...].
    """
    outputs = []
    for start in range(0, len(latent), batch):
        rows = np.minimum(np.arange(start, start + batch), len(latent) - 1)
        feeds: dict[str, Array] = {
            "latent": latent[rows],
            "timestep": np.full(batch, timestep, dtype=np.float32),
            "label": labels[rows],
        }
        outputs.append(session.run(feeds)["prediction"][: len(latent) - start])
    return np.concatenate(outputs).astype(np.float32, copy=False)
