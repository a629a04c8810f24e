"""The Inception Score, summed part by part."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

SPLIT = 5000  # images, as ADM's evaluator has them
Array = npt.NDArray[np.float64]


@dataclass
class _Split:
    """What is known of the images of a split so far."""

    sums: Array  # [class], of the probabilities
    count: int = 0
    negative_entropy: float = 0.0  # the sum over images and classes of p log p

    def score(self) -> float:
        mean = self.sums / self.count
        known = mean[mean > 0]
        return float(np.exp(self.negative_entropy / self.count - (known * np.log(known)).sum()))


@dataclass
class InceptionScore:
    """``exp(E KL(p(y|x) || p(y)))`` (Salimans et al., 2016), the mean over splits of the images.

    ``E sum p log p - sum q log q`` with q the mean of p over a split is the same divergence, and
    needs sums alone. Splits are taken one after the other; the last one has what is left.

    Attributes:
        split: Images of a split.
    """

    split: int = SPLIT
    _splits: list[_Split] = field(default_factory=list)

    def add(self, logits: npt.NDArray[np.floating]) -> None:
        """Take the next images: [image, class]."""
        while len(logits):
            if not self._splits or self._splits[-1].count == self.split:
                self._splits.append(_Split(np.zeros(logits.shape[1])))
            last = self._splits[-1]
            taken, logits = np.split(logits, [self.split - last.count])
            log_p = _log_softmax(taken.astype(np.float64))
            p = np.exp(log_p)
            last.count += len(p)
            last.sums += p.sum(axis=0)
            last.negative_entropy += float((p * log_p).sum())

    @property
    def value(self) -> float | None:
        """The score, or None where no image was seen."""
        return float(np.mean([one.score() for one in self._splits])) if self._splits else None


def _log_softmax(logits: Array) -> Array:
    logits = logits - logits.max(axis=1, keepdims=True)
    log_sums: Array = np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logits - log_sums
