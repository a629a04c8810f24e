"""How far the demo's images of fewer calls are from those of all 50, on the same noise.

The demo is exported, its forecast fitted at guidance 2, and, for int8, calibrated; ``--bundle``
names one for which that is done. All rows are held against the fp32 graph with all calls.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import click
import numpy as np
from record import record

from pitstop.calibration.pipeline import calibrate_bundle
from pitstop.calibration.recipe import Recipe as Calibration
from pitstop.evaluation.accuracy.quality import frechet_distance, judge
from pitstop.export.pipeline import export_bundle
from pitstop.forecast.pipeline import fit_forecast
from pitstop.forecast.recipe import Recipe
from pitstop.runtime.backend import SessionOptions
from pitstop.runtime.bundle.folder import open_bundle
from pitstop.runtime.distance import psnr
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.settings import Settings

GUIDANCE = 2.0  # that is fitted and calibrated for
PEAK = 2.0  # of pixels in [-1, 1]
FEATURES = 128  # of the classifier; a Fréchet distance needs more images


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), help="That has all that is drawn by.")
@click.option("--images", default=256, show_default=True)
@click.option("--calls", "numbers", default=(25, 17, 13), multiple=True, show_default=True)
@click.option("--cfg-scale", "scales", default=(GUIDANCE,), multiple=True, show_default=True)
@click.option("--precision", "precisions", default=("fp32",), multiple=True, show_default=True)
@click.option("--taylor/--no-taylor", default=True, help="Rows without the fit too.")
@click.option("--threads", default=2, show_default=True)
@click.option("--keep", is_flag=True, help="Write the figures to results/forecast.json.")
def main(
    bundle: Path | None,
    images: int,
    numbers: tuple[int, ...],
    scales: tuple[float, ...],
    precisions: tuple[str, ...],
    taylor: bool,
    threads: int,
    keep: bool,
) -> None:
    """Draw, compare, print."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = bundle or _make(Path(folder) / "bundle", numbers, precisions)
        rows = _measure(bundle, images, numbers, scales, precisions, taylor, threads)
    if keep:
        click.echo(record("forecast", {"rows": rows}))


def _make(folder, numbers, precisions):
    assert export_bundle("fashion", folder).passed
    if "int8" in precisions:
        calibrate_bundle(folder, Calibration(num=64, steps=50, cfg_scale=GUIDANCE))
    with Pipeline.from_bundle(folder, backend="openvino", precision="fp32") as pipeline:
        recipe = Recipe(Settings(50, "ddim"), (GUIDANCE,), tuple(sorted(numbers)))
        fit_forecast(open_bundle(folder), pipeline, recipe)
    return folder


def _measure(bundle, images, numbers, scales, precisions, taylor, threads):
    rows, references = [], {}
    for precision in ("fp32", *(name for name in precisions if name != "fp32")):
        options = SessionOptions(threads=threads)
        fitted = Pipeline.from_bundle(
            bundle, backend="openvino", precision=precision, options=options
        )
        plain = Pipeline(fitted.manifest, fitted.session, precision, conditioner=fitted.conditioner)
        for scale in scales:
            settings = Settings(50, "ddim", scale)
            asked = [(50, "all", fitted)]
            if precision in precisions:
                asked += [(calls, "fitted", fitted) for calls in numbers]
                asked += [(calls, "taylor", plain) for calls in numbers if taylor]
            for calls, name, pipeline in asked:
                drawn = _draw(pipeline, dataclasses.replace(settings, calls=calls), images)
                reference = references.setdefault(scale, drawn)
                rows.append(_row(reference, drawn, scale, precision, calls, name))
                click.echo(rows[-1])
    return rows


def _draw(pipeline, settings, images):
    label = pipeline.manifest.label
    told = [label.told(index % label.classes) for index in range(images)]
    return pipeline.draw(told, list(range(images)), settings)


def _row(reference, drawn, scale, precision, calls, name):
    decibels = [psnr(wanted, found, PEAK) for wanted, found in zip(reference, drawn, strict=True)]
    finite = np.isfinite(decibels).all()
    judged, ours = judge(reference), judge(drawn)
    classes = [index % 10 for index in range(len(drawn))]
    enough = len(drawn) > FEATURES and name != "all"
    return {
        "images": len(drawn),
        "cfg_scale": scale,
        "precision": precision,
        "calls": calls,
        "forecast": name,
        "psnr_db_median": float(np.median(decibels)) if finite else None,
        "psnr_db_p5": float(np.percentile(decibels, 5)) if finite else None,
        "class_agreement": ours.agreement(classes),
        "frechet_distance": frechet_distance(judged.features, ours.features) if enough else None,
    }


if __name__ == "__main__":
    main()
