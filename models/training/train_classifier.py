"""Train the classifier that judges the demo's images."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from ..classifier import Classifier
from .fashion_mnist import LabelledImages

BATCH = 128
LEARNING_RATE = 2e-3
SHIFT = 2  # pixels, the padding of the images


def run(
    model: Classifier, train: LabelledImages, epochs: int, seed: int = 0
) -> Iterator[tuple[int, float]]:
    """Train ``model`` in place, and give the step and its loss, ``epochs * batches`` times."""
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * (len(train.labels) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    model.train()
    for step in range(steps):
        if step % (steps // epochs) == 0:
            order = torch.randperm(len(train.labels), generator=generator)
        chosen = order[step % (steps // epochs) * BATCH :][:BATCH]
        images = _shifted(train.images[chosen], generator)
        loss = functional.cross_entropy(model(images), train.labels[chosen], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        yield step, loss.item()
    model.eval()


def accuracy(model: Classifier, images: LabelledImages) -> float:
    """The share of images, in [0, 1], that the model names as they are labelled."""
    model.eval()
    with torch.inference_mode():
        named = torch.cat([model(part).argmax(dim=1) for part in images.images.split(500)])
    return (named == images.labels).float().mean().item()


def _shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    down, right = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=generator).tolist()
    return images.roll((down, right), dims=(2, 3))
