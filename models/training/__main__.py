"""The commands that train the shipped weights and write them beside this package.

Example: python -m pitstop.models.training denoiser --steps 12000 --out models/weights
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ... import CheckpointError
from ..checkpoint import Checkpoint, save_checkpoint, save_classifier
from ..classifier import Classifier
from ..presets import FASHION
from . import train_classifier, train_denoiser
from .fashion_mnist import CLASSES, FOLDER, read_test, read_train

SAVE_EVERY = 250  # steps


def _progress() -> Progress:
    loss = TextColumn("loss {task.fields[loss]:.4f}")
    return Progress(*Progress.get_default_columns()[:1], BarColumn(), MofNCompleteColumn(),
                    TimeRemainingColumn(), loss)  # fmt: skip


@click.group()
def main() -> None:
    """Train the demo's weights on Fashion-MNIST."""


data_option = click.option(
    "--data", type=click.Path(path_type=Path), default=FOLDER, help="Folder of the data set."
)
out_option = click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True,
    help="Folder for the weights.",
)  # fmt: skip


@main.command()
@data_option
@out_option
@click.option("--steps", type=click.IntRange(min=1), default=12000, show_default=True)
@click.option("--seed", default=0, show_default=True)
def denoiser(data: Path, out: Path, steps: int, seed: int) -> None:
    """Train the PiT; run the same command again to go on after a stop."""
    out.mkdir(parents=True, exist_ok=True)
    recipe = train_denoiser.Recipe(steps=steps, seed=seed)
    training = train_denoiser.start(FASHION, recipe)
    state = out / "fashion.training.pt"
    if state.exists():
        training.restore(state)
    images = read_train(data)
    with _progress() as progress:
        bar = progress.add_task("denoiser", total=steps, completed=training.step, loss=float("nan"))
        mean = float("nan")
        for loss in train_denoiser.run(training, recipe, images):
            mean = loss if mean != mean else 0.99 * mean + 0.01 * loss
            progress.update(bar, completed=training.step, loss=mean)
            if training.step % SAVE_EVERY == 0:
                training.save(state)
    training.save(state)
    provenance = f"trained on Fashion-MNIST, {steps} steps, EMA"
    checkpoint = Checkpoint(training.ema, CLASSES, provenance)
    save_checkpoint(checkpoint, out / "fashion.safetensors", dtype=torch.float16)


@main.command()
@data_option
@out_option
@click.option("--epochs", type=click.IntRange(min=1), default=12, show_default=True)
@click.option("--seed", default=0, show_default=True)
def classifier(data: Path, out: Path, epochs: int, seed: int) -> None:
    """Train the classifier and print its accuracy on the test set."""
    out.mkdir(parents=True, exist_ok=True)
    train = read_train(data)
    torch.manual_seed(seed)
    model = Classifier(len(CLASSES))
    with _progress() as progress:
        bar = progress.add_task("classifier", total=None, loss=float("nan"))
        total = epochs * (len(train.labels) // train_classifier.BATCH)
        for step, loss in train_classifier.run(model, train, epochs, seed):
            progress.update(bar, total=total, completed=step + 1, loss=loss)
    save_classifier(model, out / "fashion-classifier.safetensors")
    click.echo(f"test accuracy {train_classifier.accuracy(model, read_test(data)):.4f}")


if __name__ == "__main__":
    try:
        main()
    except CheckpointError as error:
        raise SystemExit(f"pitstop: {error}") from error
