"""A cell of the study: images of one method at one number of calls, judged and kept as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pitstop.evaluation.accuracy.quality import Features, frechet_distance, judge
from pitstop.runtime.distance import latent_peak, psnr
from pitstop.runtime.sampling.sampler import Latent
from pitstop.runtime.whole_file import whole_file

STEPS = 50
SCALE = 2.0
EXACT_DB = 200.0  # of images that are the same


@dataclass(frozen=True)
class Cell:
    """What is drawn.

    Attributes:
        method: A name in `methods`.
        calls: As many as are asked for.
        precision: Of the graph; PyTorch's are all fp32.
        cfg_scale: Of the guidance.
    """

    method: str
    calls: int
    precision: str = "fp32"
    cfg_scale: float = SCALE

    @property
    def name(self) -> str:
        return f"{self.method}-{self.calls}-{self.precision}-cfg{self.cfg_scale:g}"


@dataclass(frozen=True)
class Figures:
    """How its images are.

    Attributes:
        calls: That the method made for an image: a schedule of intervals may need more.
        psnr_db: PSNR in dB of the median image against all calls on the same noise.
        psnr_db_low: At the 5th percentile.
        class_agreement: Share of images, in [0, 1], that a classifier names as asked.
        frechet: Squared distance of its features to those of the images of all calls.
        frechet_real: To those of real images; None where they are not at hand.
    """

    calls: int
    psnr_db: float
    psnr_db_low: float
    class_agreement: float
    frechet: float | None
    frechet_real: float | None


@dataclass(frozen=True)
class Judged:
    """The images of all calls, and what others are held against.

    Attributes:
        latents: float32 [image, channel, row, column].
        labels: What they show.
        features: Of them.
        real: Of real images, where they are at hand.
    """

    latents: Latent
    labels: Sequence[int]
    features: Features
    real: Features | None

    def figures(self, drawn: Latent, calls: int) -> Figures:
        """Of other images on the same noise."""
        peak = latent_peak(self.latents, "pixel")
        pairs = zip(self.latents, drawn, strict=True)
        each = [min(psnr(one, other, peak), EXACT_DB) for one, other in pairs]
        seen = judge(drawn)
        enough = len(drawn) > seen.features.shape[1]  # for a covariance
        return Figures(
            calls=calls,
            psnr_db=float(np.median(each)),
            psnr_db_low=float(np.percentile(each, 5)),
            class_agreement=seen.agreement(self.labels),
            frechet=frechet_distance(seen.features, self.features) if enough else None,
            frechet_real=frechet_distance(seen.features, self.real)
            if enough and self.real is not None
            else None,
        )


def read_cell(folder: Path, cell: Cell, images: int) -> Figures | None:
    """The figures of a cell that is done."""
    path = _path(folder, cell, images)
    return Figures(**json.loads(path.read_text())) if path.is_file() else None


def write_cell(folder: Path, cell: Cell, images: int, figures: Figures) -> None:
    with whole_file(_path(folder, cell, images)) as beside:
        beside.write_text(json.dumps(dataclasses.asdict(figures), indent=2) + "\n")


def _path(folder: Path, cell: Cell, images: int) -> Path:
    return folder / f"{cell.name}-{images}.json"
