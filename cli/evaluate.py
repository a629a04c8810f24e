"""``pitstop evaluate``: how good a set of images is, alone or beside another one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .inputs import check_input
from .places import check_apart
from .printing import console, json_option, messages, pairs, write_json
from .progress import shown_stages

if TYPE_CHECKING:
    from ..evaluation.images.evaluate import Evaluation


@click.command()
@click.argument("images", type=click.Path(path_type=Path), callback=check_input)
@click.argument("reference", type=click.Path(path_type=Path), required=False, callback=check_input)
@click.option(
    "--features",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="Whose: torch-fidelity or clean-fid (Inception), or fashion, the shipped classifier. auto "
    "takes the first of them that is installed.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="FILE",
    callback=check_input,
    help="Inception's, as torch-fidelity or clean-fid publishes them.",
)
@json_option
def evaluate(
    images: Path,
    reference: Path | None,
    features: str,
    weights: Path | None,
    json_path: Path | None,
) -> None:
    """Score IMAGES by their features: Inception Score; with a REFERENCE also Fréchet distance
    (FID), sFID, precision and recall.

    A set is an .npz as `generate --npz` writes it, or a folder of PNGs.

    Example: pitstop evaluate samples.npz VIRTUAL_imagenet256_labeled.npz --weights inception.pth
    """
    from ..evaluation.images.evaluate import evaluate as score
    from ..evaluation.images.evaluate import figures

    reads = {"IMAGES": images, "REFERENCE": reference, "`--weights`": weights}
    check_apart({"--json": json_path}, reads)
    with shown_stages() as on_stage:
        done = score(images, reference, features=features, weights=weights, on_stage=on_stage)
    write_json(json_path, figures(done))
    _print(done)


def _print(done: Evaluation) -> None:
    rows = [
        ("images", f"{done.images:,}"),
        *([("reference", f"{done.reference:,}")] if done.reference is not None else []),
        ("features", f"{done.features:,} of {done.network}"),
        *_figure("Fréchet distance", done.frechet_distance, 4),
        *_figure("sFID", done.spatial_frechet_distance, 4),
        *_figure("Inception Score", done.inception_score, 4),
        *_figure("precision", done.precision, 4),
        *_figure("recall", done.recall, 4),
    ]
    console.print(pairs(rows))
    for note in done.notes:
        messages.print(f"note: {note}", style="yellow")


def _figure(name: str, value: float | None, digits: int) -> list[tuple[str, str]]:
    return [] if value is None else [(name, f"{value:.{digits}f}")]
