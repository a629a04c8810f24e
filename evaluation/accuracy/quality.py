"""How good a set of images is: the class that a classifier sees, and the Fréchet distance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError

from ... import CheckpointError, OptionError
from ...models.checkpoint import load_classifier
from ...models.presets import CLASSIFIER
from ...runtime.bundle.manifest import Manifest
from ...runtime.sampling.sampler import Latent
from ..images import gaussian

Features = npt.NDArray[np.float64]
IMAGE = (1, 32, 32)  # channel, row, column of what the classifier was trained on
PART = 500  # images judged at once


@dataclass(frozen=True)
class Judgement:
    """What a classifier sees in a set of images.

    Attributes:
        named: int64 [image], the class that it names.
        features: float64 [image, feature], what it names it by.
    """

    named: npt.NDArray[np.int64]
    features: Features

    def agreement(self, labels: Sequence[int]) -> float:
        """The share of images, in [0, 1], that are named as they were asked for."""
        return float(np.mean(self.named == np.asarray(labels)))


Judge = Callable[[Latent], Judgement]
"""Names images float32 [image, channel, row, column]."""


def judge(pixels: Latent, classifier: Path = CLASSIFIER) -> Judgement:
    """Let a classifier, the shipped one by default, name images.

    Args:
        pixels: float32 [image, 1, 32, 32] in [-1, 1].
        classifier: Its file.
    """
    model = load_classifier(classifier)
    with torch.inference_mode():
        parts = torch.from_numpy(np.clip(pixels, -1.0, 1.0)).split(PART)
        features = torch.cat([model.features(part) for part in parts])
        named = model.head(features).argmax(dim=1)
    return Judgement(named.numpy(), features.double().numpy())


def open_judge(name: str, manifest: Manifest) -> Judge:
    """A classifier for a bundle's images.

    Args:
        name: ``fashion``, the shipped one, or the path of a file like it.
        manifest: The bundle's.

    Raises:
        CheckpointError: No such file, or no classifier in it.
        OptionError: It cannot judge these images.
    """
    path = CLASSIFIER if name == "fashion" else Path(name)
    try:
        classes = load_classifier(path).head.out_features
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} holds no classifier ({error})",
            "Name a file that `python -m pitstop.models.training classifier` made, or `fashion`",
        ) from error
    if (manifest.latent_space, manifest.latent_shape) != ("pixel", IMAGE):
        raise OptionError(
            f"The classifier judges grey images of 32 x 32, but this model's latents are "
            f"{list(manifest.latent_shape)} in {manifest.latent_space} space",
            "Leave out `--classifier`",
        )
    if classes != manifest.label.classes:
        raise OptionError(
            f"The classifier knows {classes} classes, but this model has {manifest.label.classes}",
            "Choose the classifier of these classes, or leave out `--classifier`",
        )
    return lambda pixels: judge(pixels, path)


def frechet_distance(first: Features, second: Features) -> float:
    """The squared distance between two Gaussians fitted to features; see `images.gaussian`.

    Args:
        first: [image, feature], more images than features.
        second: The same features of other images.
    """
    return gaussian.frechet_distance(gaussian.fit(first), gaussian.fit(second))
