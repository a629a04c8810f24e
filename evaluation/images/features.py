"""What a network sees in images, and which networks there are."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ... import OptionError, one_of
from .image_set import ImageSet, Pixels

Array = npt.NDArray[np.float32]

AUTO, FIDELITY, CLEAN, SHIPPED = "auto", "torch-fidelity", "clean-fid", "fashion"
PACKAGES = {FIDELITY: "torch_fidelity", CLEAN: "cleanfid"}
NAMES = (AUTO, FIDELITY, CLEAN, SHIPPED)


@dataclass(frozen=True)
class Seen:
    """What a network sees in a part of a set.

    Attributes:
        features: float32 [image, feature].
        logits: float32 [image, class], or None where it names no class.
        spatial: float32 [image, feature], of a layer that still knows where; None where there is
            no such layer to be had.
    """

    features: Array
    logits: Array | None = None
    spatial: Array | None = None


@dataclass(frozen=True)
class Network:
    """A network that is open.

    Attributes:
        name: One of `NAMES`, but for ``auto``.
        look: What it sees in uint8 [image, row, column, 3].
        check: Refuses a set whose images it cannot take.
    """

    name: str
    look: Callable[[Pixels], Seen]
    check: Callable[[ImageSet], None] = lambda images: None


def open_network(name: str, weights: Path | None) -> Network:
    """Open a network.

    Args:
        name: One of `NAMES`; ``auto`` takes the first of Inception's that is installed, else the
            classifier that ships with pitstop.
        weights: Inception's, as the package that is asked for publishes them.

    Raises:
        OptionError: There is no such network, it is not installed, or its weights are not named.
        CheckpointError: Its weights cannot be read.
    """
    if name not in NAMES:
        raise one_of("network", name, NAMES)
    chosen = _installed() if name == AUTO else name
    if chosen == SHIPPED:
        if weights is not None:
            raise OptionError(
                f"{weights} is of an Inception, and the network is the shipped classifier",
                f"Leave `--weights` out, or install torch-fidelity or clean-fid and say "
                f"`--features {FIDELITY}`",
            )
        from .classifier import open_classifier

        return open_classifier()
    if importlib.util.find_spec(PACKAGES[chosen]) is None:
        raise OptionError(
            f"{chosen} is not installed",
            f"Install it with: pip install {chosen}, or say `--features {SHIPPED}` where the "
            "images are grey ones of 32 x 32",
        )
    from .inception import open_inception

    return open_inception(chosen, weights)


def _installed() -> str:
    return next((name for name in PACKAGES if importlib.util.find_spec(PACKAGES[name])), SHIPPED)
