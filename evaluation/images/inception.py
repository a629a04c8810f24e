"""Inception v3 of 2015 through torch-fidelity or clean-fid, each with its own resizing.

torch-fidelity's is TensorFlow's network and bilinear resizing, those of ADM's evaluator. sFID takes
the first seven channels of ``mixed_6/conv`` there, 17 x 17 each (Nash et al., 2021); that layer is
``Mixed_6d.branch1x1`` in PyTorch's names. clean-fid resizes with an antialiasing bicubic filter
(Parmar et al., 2022), and its file gives the pooled features alone.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ... import CheckpointError, OptionError
from .features import FIDELITY, Network, Seen
from .image_set import Pixels

CHANNELS = 7  # of the spatial features
UNREADABLE = (  # what PyTorch raises at a file that is something else, or holds something else
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    pickle.UnpicklingError,
)
FILES = {
    FIDELITY: "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth",
    "clean-fid": "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/"
    "inception-2015-12-05.pt",
}


def open_inception(package: str, weights: Path | None) -> Network:
    """Inception with the weights that a package publishes; on the GPU where PyTorch has one.

    Raises:
        OptionError: No weights are named.
        CheckpointError: They cannot be read.
    """
    if weights is None:
        raise OptionError(
            f"The features of {package} need Inception's weights, and none are named",
            f"Download {FILES[package]} and name the file with `--weights`",
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    opened = _fidelity if package == FIDELITY else _clean
    with _refusing(package, weights):
        return Network(package, opened(weights, device))


@contextlib.contextmanager
def _refusing(package: str, weights: Path) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise OptionError(
            f"{package} needs {error.name}, which is not installed",
            f"Install it with: pip install {error.name}",
        ) from error
    except UNREADABLE as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{weights} is not Inception's file of {package} ({why})",
            f"Download {FILES[package]} and name it with `--weights`",
        ) from error


def _fidelity(weights: Path, device: torch.device) -> Callable[[Pixels], Seen]:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.load(weights, weights_only=True)  # torch-fidelity itself would run a pickle's code
    model = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(weights))
    model.to(device)
    caught: list[Tensor] = []
    model.Mixed_6d.branch1x1.register_forward_hook(lambda layer, fed, given: caught.append(given))

    def look(pixels: Pixels) -> Seen:
        caught.clear()
        with torch.inference_mode():
            features, logits = model(torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device))
            spatial = caught[0][:, :CHANNELS].flatten(1)
        return Seen(features.cpu().numpy(), logits.cpu().numpy(), spatial.float().cpu().numpy())

    return look


def _clean(weights: Path, device: torch.device) -> Callable[[Pixels], Seen]:
    from cleanfid.resize import build_resizer

    resize: Any = build_resizer("clean")
    layers: Any = torch.jit.load(str(weights), map_location=device).eval().layers

    def look(pixels: Pixels) -> Seen:
        resized = np.stack([resize(image) for image in pixels])
        images = torch.from_numpy(resized).permute(0, 3, 1, 2).to(device)
        with torch.inference_mode():
            features = layers((images - 128) / 128).flatten(1)  # as cleanfid's InceptionV3W
        return Seen(features.cpu().numpy())

    return look
