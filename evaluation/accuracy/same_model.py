"""Whether bundles and checkpoints are of one model: what is compared must be comparable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ... import BundleError
from ...runtime.bundle.folder import Bundle
from ...runtime.bundle.goldens import read_goldens
from ...runtime.distance import relative_l2

SAME_WEIGHTS = 1e-2  # relative L2 of PyTorch's answers, on two machines at most


def check_same_model(bundles: Sequence[Bundle]) -> None:
    """See that all bundles have the first one's config and weights.

    The weights are PyTorch's own, as the goldens show them: a bundle whose graphs have left them
    is what a comparison is there to find.

    Raises:
        BundleError: One has not; the message names both, and what differs.
    """
    first, *others = bundles
    remedy = "Compare bundles of one model at a time"
    for other in others:
        name = different_field(first.manifest.model.config, other.manifest.model.config)
        if name is not None:
            values = (bundle.manifest.model.config.get(name) for bundle in (first, other))
            raise BundleError(
                f"{first.folder} and {other.folder} are of different models: {name} is "
                + " and ".join(map(str, values)),
                remedy,
            )
        distance = _between(first, other)
        if distance > SAME_WEIGHTS:
            raise BundleError(
                f"{first.folder} and {other.folder} were exported from different weights: "
                f"PyTorch's answers in their goldens are {distance:.1e} apart in relative L2",
                remedy,
            )


def different_field(config: Mapping[str, Any], bundled: Mapping[str, Any]) -> str | None:
    """The first field of a bundle's config that is not so in ``config``, or None."""
    for name, value in bundled.items():
        if _plain(config.get(name)) != _plain(value):
            return name
    return None


def _between(first: Bundle, other: Bundle) -> float:
    """The distance of the goldens' first row: noise of seed 0, asked for class 0 at one step."""
    [a, b] = (read_goldens(bundle.path(bundle.manifest.goldens)) for bundle in (first, other))
    if a.settings != b.settings or a.latents.shape[2:] != b.latents.shape[2:]:
        return 0.0  # not asked the same, so not to be told apart
    return relative_l2(a.predictions[0, 0], b.predictions[0, 0])


def _plain(value: object) -> object:
    """``value`` as JSON would give it back: lists for tuples."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value
