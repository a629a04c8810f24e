"""One set of images beside another: all scores in one look at each, part by part."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ... import OptionError
from ...runtime.stage import OnStage, unheard
from .features import AUTO, Array, Network, Seen, open_network
from .gaussian import Gaussian, fit, frechet_distance
from .image_set import ImageSet, open_set
from .inception_score import SPLIT, InceptionScore
from .neighbours import K, precision_and_recall

PART = 64  # images that are looked at together


@dataclass(frozen=True)
class Evaluation:
    """How good a set is.

    Attributes:
        network: Whose features they are.
        features: How many it has of an image.
        images: Of the set.
        reference: Images of the other one, or None where there is none.
        inception_score: Of the set alone; None where the network names no class.
        frechet_distance: FID, with Inception's features; None without a reference.
        spatial_frechet_distance: sFID; None where the network has no spatial features too.
        precision: The share of the set inside the reference's manifold.
        recall: The share of the reference inside the set's.
        notes: What to know of these figures.
    """

    network: str
    features: int
    images: int
    reference: int | None
    inception_score: float | None
    frechet_distance: float | None = None
    spatial_frechet_distance: float | None = None
    precision: float | None = None
    recall: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Look:
    """What was seen in a whole set; all its features, for they are what neighbours are found in."""

    images: ImageSet
    features: Array
    gaussian: Gaussian
    spatial: Gaussian | None
    inception_score: float | None


def evaluate(
    images: Path,
    reference: Path | None = None,
    *,
    features: str = AUTO,
    weights: Path | None = None,
    on_stage: OnStage = unheard,
) -> Evaluation:
    """Score a set of images, alone or beside a reference.

    Args:
        images: An .npz or a folder of PNGs.
        reference: The same, of what the images should look like.
        features: The network, one of `features.NAMES`.
        weights: Inception's.
        on_stage: Told of each set, an image at a time.

    Raises:
        PitstopError: A set or the network cannot be read, or they do not go together.
    """
    sets = [open_set(path) for path in (images, reference) if path is not None]
    _check_counts(sets)
    network = open_network(features, weights)
    for one in sets:
        network.check(one)
    first, *others = (_look(network, one, on_stage) for one in sets)
    width = first.features.shape[1]
    notes = tuple(_notes([first, *others], network))
    if not others:
        return Evaluation(
            network.name, width, len(first.features), None, first.inception_score, notes=notes
        )
    [second] = others
    on_stage("comparing the sets")
    precision, recall = precision_and_recall(first.features, second.features)
    return Evaluation(
        network=network.name,
        features=width,
        images=len(first.features),
        reference=len(second.features),
        inception_score=first.inception_score,
        frechet_distance=frechet_distance(first.gaussian, second.gaussian),
        spatial_frechet_distance=(
            frechet_distance(first.spatial, second.spatial)
            if first.spatial is not None and second.spatial is not None
            else None
        ),
        precision=precision,
        recall=recall,
        notes=notes,
    )


def _check_counts(sets: list[ImageSet]) -> None:
    for one in sets:
        if one.count <= K:
            raise OptionError(
                f"{one.path} has {one.count} images, and {K + 1} are the least", "Draw more images"
            )


def _look(network: Network, images: ImageSet, on_stage: OnStage) -> _Look:
    moved = on_stage(f"looking at {images.path.name}", images.count)
    parts: list[Array] = []
    score = InceptionScore()
    pooled: Gaussian | None = None
    spatial: Gaussian | None = None
    for seen in _seen(network, images):
        parts.append(seen.features)
        pooled = _joined(pooled, seen.features)
        if seen.spatial is not None:
            spatial = _joined(spatial, seen.spatial)
        if seen.logits is not None:
            score.add(seen.logits)
        moved(len(seen.features))
    assert pooled is not None  # no set is empty
    return _Look(images, np.concatenate(parts), pooled, spatial, score.value)


def _seen(network: Network, images: ImageSet) -> Iterator[Seen]:
    for part in images.parts(PART):
        yield network.look(part)


def _joined(fitted: Gaussian | None, features: Array) -> Gaussian:
    part = fit(features)
    return part if fitted is None else fitted.merged(part)


def _notes(looks: list[_Look], network: Network) -> Iterator[str]:
    for look in looks:
        widest = max(len(one.mean) for one in (look.gaussian, look.spatial) if one is not None)
        if len(looks) > 1 and look.images.count <= widest:
            yield (
                f"{look.images.path} has {look.images.count} images for {widest} features: its "
                "covariance is singular, and the Fréchet distance too large"
            )
        if look.images.has_statistics:
            yield (
                f"the mu and sigma in {look.images.path} were not read: the distance is to its "
                f"{look.images.count} images"
            )
    if len({look.images.size for look in looks}) > 1:
        sizes = " and ".join("{} x {}".format(*look.images.size) for look in looks)
        yield f"the images are of two sizes, {sizes}"
    if looks[0].inception_score is not None and looks[0].images.count < SPLIT:
        yield f"the Inception Score of fewer than {SPLIT} images is too small"
    if looks[0].images.count != looks[-1].images.count:
        yield "precision and recall depend on the number of images, which differs"


def figures(done: Evaluation) -> dict[str, Any]:
    """The figures for ``--json``."""
    return dataclasses.asdict(done)
