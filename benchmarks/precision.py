"""What each precision costs in accuracy: 256 guided images of the demo beside PyTorch in fp32.

The same noise on both sides, 50 DDIM steps, guidance scale 2, on ONNX Runtime's CPU provider. It
computes fp16 in fp32 and has no bf16, so both are judged by their twins, which round behind every
value as a device does; the rows that name a backend are the graphs themselves. Needs the Debian
package dataset-fashion-mnist for the Fréchet distance to real images.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx_ir as ir
from record import record

from pitstop.calibration.pipeline import calibrate_bundle
from pitstop.calibration.qdq.placement import Placement
from pitstop.calibration.recipe import Recipe
from pitstop.calibration.sets.unbundled import unbundled
from pitstop.evaluation.accuracy.compare import compare
from pitstop.evaluation.accuracy.quality import Features, frechet_distance, judge
from pitstop.evaluation.accuracy.reference import live_goldens
from pitstop.evaluation.demo import BATCH, SETTINGS, SOURCE
from pitstop.export.lowering.lower import LOW
from pitstop.export.pipeline import export_bundle
from pitstop.graphs.rounding import rounded
from pitstop.models.training.fashion_mnist import read_test
from pitstop.runtime.backend import SessionOptions
from pitstop.runtime.bundle.folder import open_bundle
from pitstop.runtime.bundle.goldens import Goldens
from pitstop.runtime.pipeline import Pipeline

OPTIONS = SessionOptions(provider="CPUExecutionProvider")

BY = {"steps": SETTINGS.steps, "cfg_scale": SETTINGS.cfg_scale}
TWIN = None
GRAPHS = {  # precision and backend
    "fp32": ("fp32", "onnxruntime"),
    "fp16": ("fp16", TWIN),
    "bf16": ("bf16", TWIN),
}
WITHOUT_BACKEND = "onnxruntime, the twin that rounds behind every value"
PLAIN: dict[str, Any] = {**BY, "smooth": False}
FULL = ("int8, --no-smooth", "int8")  # on all images
RECIPES = {
    "int8, --no-smooth": Recipe(**PLAIN),
    "int8": Recipe(**BY),
    "int8, --no-smooth --method minmax": Recipe(**PLAIN, method="minmax"),
    "int8, --no-smooth --method percentile": Recipe(**PLAIN, method="percentile"),
    "int8, --no-smooth --method entropy": Recipe(**PLAIN, method="entropy"),
    "int8, of the first": Recipe(**BY),
    "int8, --weight-bits 7": Recipe(**BY, weight_bits=7),
    "int8, --no-smooth --no-bridge": Recipe(**PLAIN, placement=Placement(bridge=False)),
    "int8, --no-smooth --attention": Recipe(**PLAIN, placement=Placement(attention=True)),
    "int8, --no-smooth --base fp32": Recipe(**PLAIN, base="fp32"),
    "int8, --no-smooth --budget 50": Recipe(**PLAIN, budget_db=50.0),
}


@click.command()
@click.option("--images", default=256, show_default=True)
@click.option("--variant-images", default=40, show_default=True, help="For int8's other recipes.")
@click.option("--only", multiple=True, help="A row's name; all by default.")
@click.option("--keep", is_flag=True, help="Write the figures to results/precision.json.")
def main(images: int, variant_images: int, only: tuple[str, ...], keep: bool) -> None:
    """Export, calibrate, draw, compare, print."""
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        precisions = ("fp32", "fp16", "bf16")
        assert export_bundle(SOURCE, bundle, batch=BATCH, precisions=precisions).passed
        manifest = open_bundle(bundle).manifest
        judged = _Judge(
            live_goldens(SOURCE, manifest, SETTINGS, images),
            judge(read_test().images.numpy()).features,
        )
        few = judged.first(variant_images)
        rows["PyTorch fp32"] = judged.quality
        click.echo(f"PyTorch fp32: {json.dumps(rows['PyTorch fp32'])}")
        for name, (precision, backend) in GRAPHS.items():
            if not only or name in only:
                rows[name] = judged.row(bundle, precision, backend)
                click.echo(f"{name}: {json.dumps(rows[name])}")
        drawn = None
        for name, recipe in RECIPES.items():
            if only and name not in only:
                continue
            place = Path(folder) / "calibrated"
            shutil.copytree(bundle, place)
            made = calibrate_bundle(place, recipe, set_path=drawn)
            rows[name] = {
                **(judged if name in FULL else few).row(place, "int8", "onnxruntime"),
                "sites": len(made.sites),
                "kept_high_precision": len(made.kept),
                "saturation_max": max(made.coverage.saturation.values()),
            }
            click.echo(f"{name}: {json.dumps(rows[name])}")
            if name == FULL[0]:
                for kind, backend in (("of the first", "onnxruntime"), ("rounded", TWIN)):
                    rows[f"{name}, {kind}"] = few.row(place, "int8", backend)
                    click.echo(f"{name}, {kind}: {json.dumps(rows[f'{name}, {kind}'])}")
            if drawn is None:
                drawn = Path(folder) / "set.npz"
                shutil.copy(place / "calibration" / "set.npz", drawn)
                coverage = json.loads((place / "calibration" / "coverage.json").read_text())
            shutil.rmtree(place)
    figures = {"images": images, **BY, "sampler": SETTINGS.sampler, "rows": rows}
    if drawn is not None:
        figures["coverage"] = coverage
    if keep:
        click.echo(record("precision", figures))


@dataclass(frozen=True)
class _Judge:
    """PyTorch's images, and how far others are from them."""

    goldens: Goldens
    real: Features

    def first(self, images: int) -> _Judge:
        """For the first images alone."""
        told = {name: rows[:images] for name, rows in self.goldens.told.items()}
        part = {"seeds": self.goldens.seeds[:images], "told": told}
        walked = self.goldens.trajectory[:, :images]
        return _Judge(dataclasses.replace(self.goldens, **part, trajectory=walked), self.real)

    @property
    def quality(self) -> dict[str, float]:
        return self._quality(self.goldens.trajectory[-1])

    def row(self, bundle: Path, precision: str, backend: str | None) -> dict[str, float | str]:
        if backend is TWIN:
            opened = open_bundle(bundle)
            model = ir.load(bundle / opened.manifest.denoiser(precision).path)
            low = LOW.get(precision, LOW["fp16"])  # int8's base is fp16
            twin = rounded(model, ir.DataType[low.dtype])
            with unbundled(opened, twin, precision, OPTIONS) as pipeline:
                found = compare(pipeline, self.goldens, reference="PyTorch fp32")
        else:
            pipeline = Pipeline.from_bundle(bundle, backend=backend, precision=precision)
            found = compare(pipeline, self.goldens, reference="PyTorch fp32")
        return {
            "backend": backend or WITHOUT_BACKEND,
            "bytes": (bundle / pipeline.manifest.denoiser(precision).path).stat().st_size,
            "relative_l2_max": found.relative_l2_max,
            "psnr_db_median": found.psnr_db_median,
            "psnr_db_min": float(np.min(found.psnr_db)),
            "images": len(found.psnr_db),
            **self._quality(found.latents),
        }

    def _quality(self, latents: np.ndarray) -> dict[str, float]:
        judged = judge(latents)
        enough = len(latents) > judged.features.shape[1]  # for a covariance
        return {
            "class_agreement": judged.agreement(self.goldens.told["label"].tolist()),
            "frechet_to_test": frechet_distance(judged.features, self.real) if enough else None,
        }


if __name__ == "__main__":
    main()
