"""The main job on the shipped weights: export, calibrate, draw, and compare with PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..calibration.pipeline import calibrate_bundle
from ..calibration.recipe import Recipe
from ..export.graph_pass import PassBroken
from ..export.pipeline import export_bundle
from ..runtime.bundle.folder import open_bundle
from ..runtime.bundle.goldens import Goldens
from ..runtime.figures import counted
from ..runtime.image import save_png, to_images
from ..runtime.pipeline import Pipeline
from ..runtime.sampling.settings import Settings
from ..runtime.stage import Moved, OnStage, unheard
from .accuracy.compare import Comparison, compare
from .accuracy.quality import judge
from .accuracy.reference import live_goldens
from .report.picture import Strip, stacked
from .step_clock import StepClock

SOURCE = "fashion"
BATCH = 20
TOGETHER = BATCH // 2  # guided images in a call
COLUMNS = 10  # of the picture: one image of each class
GAIN = 32  # of the pictured difference
SETTINGS = Settings(steps=50, cfg_scale=2.0)


@dataclass(frozen=True)
class Size:
    """How much the demo does.

    Attributes:
        images: Drawn by PyTorch and in each precision, as many of each class.
        exported: Precisions that are exported; int8 comes by calibration.
        trajectories: That the calibration looks at.
    """

    images: int
    exported: tuple[str, ...]
    trajectories: int


WHOLE = Size(images=40, exported=("fp32", "fp16"), trajectories=64)
QUICK = Size(images=10, exported=("fp32",), trajectories=8)


@dataclass(frozen=True)
class DemoRow:
    """One precision of the demo beside PyTorch in fp32.

    Attributes:
        precision: Of the denoiser's graph.
        bytes: Of its file.
        ms_per_step: Milliseconds for one guided step of `TOGETHER` images, the sampler included.
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
        picture: PyTorch's images, and each precision's with its difference, a PNG.
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
    size: Size = WHOLE,
    *,
    on_stage: OnStage = unheard,
) -> Demo:
    """Export the shipped PiT, draw images with it, and compare them with PyTorch's.

    Args:
        out: A folder for the bundle and the picture.
        size: How much of it.
        on_stage: Told what is being done.

    Raises:
        PitstopError: ``out`` cannot be written.
        PassBroken: The export does not match PyTorch.
    """
    bundle, picture = out / "bundle", out / "images.png"
    _make_bundle(bundle, size, on_stage)
    manifest = open_bundle(bundle).manifest
    drawing = f"drawing {size.images} images with"
    clock = StepClock(on_stage(f"{drawing} PyTorch", size.images, SETTINGS.steps))
    goldens = live_goldens(SOURCE, manifest, SETTINGS, size.images, on_step=clock.tick)
    rows = []
    for precision in manifest.precisions:
        moved = on_stage(f"{drawing} ONNX Runtime, {precision}", size.images, SETTINGS.steps)
        rows.append(_measure(bundle, precision, goldens, moved))
    reference_ms = _ms(clock)
    classes = manifest.label.classes_in(goldens.told)
    names = [manifest.label.called(label) for label in classes[:COLUMNS]]
    save_png(stacked(names, _strips(goldens, reference_ms, rows)), picture)
    agreement = judge(goldens.trajectory[-1]).agreement(classes)
    return Demo(tuple(rows), agreement, reference_ms, picture, bundle)


def _make_bundle(bundle: Path, size: Size, on_stage: OnStage) -> None:
    report = export_bundle(SOURCE, bundle, batch=BATCH, precisions=size.exported, on_stage=on_stage)
    if not report.passed:
        raise PassBroken(
            f"The exported graph is {report.parity.worst:.1e} from PyTorch, "
            f"above {report.parity.tolerance:.0e}"
        )
    recipe = Recipe(num=size.trajectories, steps=SETTINGS.steps, cfg_scale=SETTINGS.cfg_scale)
    calibrate_bundle(bundle, recipe, on_stage=on_stage)


def _measure(bundle: Path, precision: str, goldens: Goldens, moved: Moved) -> DemoRow:
    pipeline = Pipeline.from_bundle(bundle, backend="onnxruntime", precision=precision)
    clock = StepClock(moved)
    compared = compare(pipeline, goldens, reference="PyTorch fp32", on_step=clock.tick)
    return DemoRow(
        precision=precision,
        bytes=(bundle / pipeline.manifest.denoiser(precision).path).stat().st_size,
        ms_per_step=_ms(clock),
        comparison=compared,
        class_agreement=judge(compared.latents).agreement(
            pipeline.manifest.label.classes_in(goldens.told)
        ),
    )


def _ms(clock: StepClock) -> float:
    """Of a step of a run that had several."""
    assert clock.ms_per_step is not None
    return clock.ms_per_step


def _strips(goldens: Goldens, reference_ms: float, rows: Sequence[DemoRow]) -> list[Strip]:
    """PyTorch's images, and for each precision its own and how far they are off."""
    expected = goldens.trajectory[-1]
    step = f"a step of {counted(min(len(expected), TOGETHER), 'image')}"
    strips = [
        Strip("PyTorch fp32", to_images(expected[:COLUMNS]), [f"{reference_ms:.0f} ms {step}"])
    ]
    scale = f"difference x {GAIN}; white is 1/{GAIN} of the range, or more"
    for row in rows:
        found = row.comparison.latents
        seen = (np.clip(latents[:COLUMNS], -1, 1) for latents in (found, expected))
        apart = GAIN * np.abs(np.subtract(*seen)) - 1.0  # -1 is black
        psnr = f"{row.comparison.psnr_db_median:.1f} dB PSNR, the median of {len(expected)} images"
        strips += [
            Strip(f"{row.precision}, {row.bytes / 1e6:.1f} MB", to_images(found[:COLUMNS])),
            Strip(
                f"{row.precision} from PyTorch: {scale}",
                to_images(apart),
                [f"{psnr}; {row.ms_per_step:.0f} ms {step}"],
            ),
        ]
    return strips
