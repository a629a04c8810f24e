"""A small convolutional classifier of 32 x 32 grey images: it judges what the demo draws."""

from __future__ import annotations

from torch import Tensor, nn

FEATURES = 128


def _stage(inputs: int, outputs: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


class Classifier(nn.Module):
    """Five convolutions, a mean over the image, a linear."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            *_stage(1, 32),
            *_stage(32, 32),
            nn.MaxPool2d(2),
            *_stage(32, 64),
            *_stage(64, 64),
            nn.MaxPool2d(2),
            *_stage(64, FEATURES),
        )
        self.head = nn.Linear(FEATURES, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Images float32 [batch, 1, 32, 32] in [-1, 1] to features float32 [batch, 128]."""
        return self.trunk(images).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Images float32 [batch, 1, 32, 32] in [-1, 1] to logits float32 [batch, num_classes]."""
        return self.head(self.features(images))
