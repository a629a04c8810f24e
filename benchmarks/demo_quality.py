"""How good the shipped model's images are: class agreement and Fréchet distance of 1,000 of them.

The images come from the exported fp32 graph on ONNX Runtime. Needs the Debian package
dataset-fashion-mnist for the real images.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import numpy as np
from record import record
from rich.progress import track

from pitstop.evaluation.accuracy.quality import frechet_distance, judge
from pitstop.evaluation.demo import SETTINGS
from pitstop.export.pipeline import export_bundle
from pitstop.models.training.fashion_mnist import read_test, read_train
from pitstop.runtime.pipeline import Pipeline

PART = 50  # images drawn at once


@click.command()
@click.option("--images", default=1000, show_default=True)
@click.option("--steps", default=SETTINGS.steps, show_default=True)
@click.option("--cfg-scale", "scales", default=[SETTINGS.cfg_scale], multiple=True)
@click.option("--source", default="fashion", show_default=True, help="A checkpoint or preset.")
@click.option("--keep", is_flag=True, help="Write the figures to results/demo_quality.json.")
def main(images: int, steps: int, scales: tuple[float, ...], source: str, keep: bool) -> None:
    """Draw, judge, print."""
    test, train = (judge(read().images.numpy()) for read in (read_test, read_train))
    figures = {
        "images": images,
        "steps": steps,
        "sampler": "ddim",
        "classifier_accuracy_test": test.agreement(read_test().labels.tolist()),
        "frechet_train_to_test": frechet_distance(train.features, test.features),
        "by_cfg_scale": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        assert export_bundle(source, bundle, batch=2 * PART).passed
        pipeline = Pipeline.from_bundle(bundle, backend="onnxruntime", precision="fp32")
        labels = [index % pipeline.manifest.label.classes for index in range(images)]
        for scale in scales:
            figures["by_cfg_scale"][str(scale)] = _measure(pipeline, labels, steps, scale, test)
    click.echo(figures)
    if keep:
        click.echo(record("demo_quality", figures))


def _measure(pipeline, labels, steps, scale, test):
    parts = []
    for start in track(range(0, len(labels), PART), description=f"guidance scale {scale}"):
        seeds = range(start, min(start + PART, len(labels)))
        drawn = pipeline(
            labels[start : start + PART], seeds=list(seeds), steps=steps, cfg_scale=scale
        )
        parts.append(drawn.latents)
    judged = judge(np.concatenate(parts))
    asked = np.asarray(labels)
    return {
        "class_agreement": judged.agreement(labels),
        "class_agreement_by_label": {
            name: float(np.mean(judged.named[asked == index] == index))
            for index, name in enumerate(pipeline.manifest.label.names)
        },
        "frechet_to_test": frechet_distance(judged.features, test.features),
    }


if __name__ == "__main__":
    main()
