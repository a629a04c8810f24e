"""Matmuls of a model's own sizes, and nothing else: the yardstick of its FLOP/s."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ....runtime.bundle.manifest import Manifest

LINKS = 8  # pairs of matmuls, so that feeding the first and reading the last weigh little

Weights = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Chain:
    """The two linears of a model's MLP, one after the other, again and again.

    Attributes:
        rows: Tokens of a call.
        width: Channels of a token.
        inner: Channels inside the MLP.
    """

    rows: int
    width: int
    inner: int

    @property
    def flops(self) -> int:
        """Of the whole chain, a multiply-add counted as two."""
        return 4 * self.rows * self.width * self.inner * LINKS

    def draw_input(self) -> Weights:
        """float32 [row, width]."""
        drawn = np.random.default_rng(1).standard_normal((self.rows, self.width))
        return drawn.astype(np.float32)

    def draw_weights(self) -> Iterator[Weights]:
        """float32 [width, inner] and [inner, width], which keep the size of what they multiply."""
        drawn = np.random.default_rng(0)
        for rows, columns in ((self.width, self.inner), (self.inner, self.width)):
            weight = drawn.standard_normal((rows, columns)) / np.sqrt(rows)
            yield weight.astype(np.float32)


def chain_of(manifest: Manifest) -> Chain | None:
    """The chain of a bundle's model; None where its config does not tell the sizes."""
    config = manifest.model.config
    if not {"hidden_size", "mlp_ratio", "patch_size"} <= config.keys():
        return None
    width, patch = int(config["hidden_size"]), int(config["patch_size"])
    _, rows, columns = manifest.latent_shape
    tokens = manifest.batch * (rows // patch) * (columns // patch)
    return Chain(tokens, width, int(width * config["mlp_ratio"]))
