"""How far the demo's images of fewer calls are from those of all 50, on the same noise.

The forecasts are those in the bundle: `pitstop export fashion --out BUNDLE`, `pitstop calibrate
BUNDLE --num 64 --cfg-scale 2`, and `pitstop forecast BUNDLE --cfg-scale 2` with as many `--calls`.
All rows are held against the fp32 graph with all calls.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click
import numpy as np
from record import record

from pitstop.evaluation.accuracy.quality import frechet_distance, judge
from pitstop.runtime.backend import SessionOptions
from pitstop.runtime.distance import psnr
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.settings import Settings

PEAK = 2.0  # of pixels in [-1, 1]
FEATURES = 128  # of the classifier; a Fréchet distance needs more images


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--images", default=256, show_default=True)
@click.option("--calls", "numbers", default=(25, 17, 13), multiple=True, show_default=True)
@click.option("--cfg-scale", "scales", default=(2.0,), multiple=True, show_default=True)
@click.option("--precision", "precisions", default=("fp32",), multiple=True, show_default=True)
@click.option("--taylor/--no-taylor", default=True, help="Rows without the fit too.")
@click.option("--threads", default=2, show_default=True)
@click.option("--keep", is_flag=True, help="Write the figures to results/forecast.json.")
def main(
    bundle: Path,
    images: int,
    numbers: tuple[int, ...],
    scales: tuple[float, ...],
    precisions: tuple[str, ...],
    taylor: bool,
    threads: int,
    keep: bool,
) -> None:
    """Draw, compare, print."""
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
    if keep:
        click.echo(record("forecast", {"images": images, "rows": rows}))


def _draw(pipeline, settings, images):
    label = pipeline.manifest.label
    told = [label.told(index % label.classes) for index in range(images)]
    return pipeline.draw(told, list(range(images)), settings)


def _row(reference, drawn, scale, precision, calls, name):
    decibels = [psnr(wanted, found, PEAK) for wanted, found in zip(reference, drawn, strict=True)]
    judged, ours = judge(reference), judge(drawn)
    classes = [index % 10 for index in range(len(drawn))]
    enough = len(drawn) > FEATURES and name != "all"
    return {
        "cfg_scale": scale,
        "precision": precision,
        "calls": calls,
        "forecast": name,
        "psnr_db_median": float(np.median(decibels)),
        "psnr_db_p5": float(np.percentile(decibels, 5)) if np.isfinite(decibels).all() else None,
        "class_agreement": ours.agreement(classes),
        "frechet_distance": frechet_distance(judged.features, ours.features) if enough else None,
    }


if __name__ == "__main__":
    main()
