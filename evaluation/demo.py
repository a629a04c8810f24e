"""The main job on the shipped weights: export, calibrate, draw, and compare with PyTorch."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..calibration.pipeline import calibrate_bundle
from ..calibration.recipe import Recipe
from ..export.graph_pass import PassBroken
from ..export.pipeline import export_bundle
from ..runtime.bundle.folder import open_bundle
from ..runtime.bundle.goldens import Goldens
from ..runtime.image import save_png, to_images
from ..runtime.pipeline import Pipeline
from ..runtime.sampling.settings import Settings
from ..runtime.stage import Moved, OnStage, unheard
from .accuracy.compare import Comparison, compare
from .accuracy.quality import judge
from .accuracy.reference import live_goldens
from .report.picture import side_by_side

SOURCE = "fashion"
BATCH = 20
IMAGES = 40  # four of each class
PRECISIONS = ("fp32", "fp16")  # and int8, by calibration
TRAJECTORIES = 64
COLUMNS = 5
SETTINGS = Settings(steps=50, cfg_scale=2.0)
ZOOM = 2


@dataclass(frozen=True)
class DemoRow:
    """One precision of the demo beside PyTorch in fp32.

    Attributes:
        precision: Of the denoiser's graph.
        bytes: Of its file.
        ms_per_step: Milliseconds for one guided step of ten images, the sampler included.
        comparison: Its distance from PyTorch.
        class_agreement: Share of images, in [0, 1], that the classifier names as asked.
    """

    precision: str
    bytes: int
    ms_per_step: float
    comparison: Comparison
    class_agreement: float


@dataclass(frozen=True)
class Demo:
    """What the demo made.

    Attributes:
        rows: One for each precision.
        reference_class_agreement: The same share for PyTorch's own images.
        reference_ms_per_step: PyTorch's time for the same step.
        picture: The images of all precisions side by side, a PNG.
        bundle: The exported bundle.
    """

    rows: tuple[DemoRow, ...]
    reference_class_agreement: float
    reference_ms_per_step: float
    picture: Path
    bundle: Path

    @property
    def passed(self) -> bool:
        return all(row.comparison.passed for row in self.rows)


def run_demo(
    out: Path,
    *,
    on_stage: OnStage = unheard,
) -> Demo:
    """Export the shipped PiT, draw forty images with it, and compare them with PyTorch's.

    Args:
        out: A folder for the bundle and the picture.
        on_stage: Told what is being done.

    Raises:
        PitstopError: ``out`` cannot be written.
        PassBroken: The export does not match PyTorch.
    """
    bundle, picture = out / "bundle", out / "images.png"
    _make_bundle(bundle, on_stage)
    manifest = open_bundle(bundle).manifest
    drawing = f"drawing {IMAGES} images with"
    clock = _Clock(on_stage(f"{drawing} PyTorch", IMAGES, SETTINGS.steps))
    goldens = live_goldens(SOURCE, manifest, SETTINGS, IMAGES, on_step=clock.tick)
    reference_ms = clock.ms_per_step
    rows = []
    for precision in manifest.precisions:
        moved = on_stage(f"{drawing} ONNX Runtime, {precision}", IMAGES, SETTINGS.steps)
        rows.append(_measure(bundle, precision, goldens, moved))
    drawn = {
        f"{row.precision}  {row.bytes / 1e6:.1f} MB": to_images(row.comparison.latents)
        for row in rows
    }
    save_png(side_by_side(drawn, COLUMNS, zoom=ZOOM), picture)
    agreement = judge(goldens.trajectory[-1]).agreement(manifest.label.classes_in(goldens.told))
    return Demo(tuple(rows), agreement, reference_ms, picture, bundle)


def _make_bundle(bundle: Path, on_stage: OnStage) -> None:
    report = export_bundle(SOURCE, bundle, batch=BATCH, precisions=PRECISIONS, on_stage=on_stage)
    if not report.passed:
        raise PassBroken(
            f"The exported graph is {report.parity.worst:.1e} from PyTorch, "
            f"above {report.parity.tolerance:.0e}"
        )
    recipe = Recipe(num=TRAJECTORIES, steps=SETTINGS.steps, cfg_scale=SETTINGS.cfg_scale)
    calibrate_bundle(bundle, recipe, on_stage=on_stage)


def _measure(bundle: Path, precision: str, goldens: Goldens, moved: Moved) -> DemoRow:
    pipeline = Pipeline.from_bundle(bundle, backend="onnxruntime", precision=precision)
    clock = _Clock(moved)
    compared = compare(pipeline, goldens, reference="PyTorch fp32", on_step=clock.tick)
    return DemoRow(
        precision=precision,
        bytes=(bundle / pipeline.manifest.denoiser(precision).path).stat().st_size,
        ms_per_step=clock.ms_per_step,
        comparison=compared,
        class_agreement=judge(compared.latents).agreement(
            pipeline.manifest.label.classes_in(goldens.told)
        ),
    )


class _Clock:
    """Counts and times the steps of a run, from the end of its first step."""

    def __init__(self, moved: Moved) -> None:
        self._moved = moved
        self._times: list[float] = []

    def tick(self, images: int) -> None:
        self._times.append(time.perf_counter())
        self._moved(images)

    @property
    def ms_per_step(self) -> float:
        """The median time between two steps, in milliseconds."""
        return 1000 * float(np.median(np.diff(self._times)))
