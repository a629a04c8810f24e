"""Whether this machine draws the noise that the goldens' images began from."""

from __future__ import annotations

import numpy as np

from ...runtime.bundle.goldens import Goldens
from ...runtime.bundle.manifest import Manifest
from ...runtime.sampling.noise import START, draw_noise

TOLERANCE = 1e-6  # other machines' C libraries round the normal distribution's tail otherwise


def why_other_noise(goldens: Goldens, manifest: Manifest) -> str | None:
    """Say how far the noise of the same seeds is from the goldens', or None where it is the same.

    The first call is fed what the images begin from, as many as it has rows for.
    """
    stored = goldens.latents[0][: len(goldens.seeds)]
    seeds = goldens.seeds[: len(stored)].tolist()
    drawn = draw_noise(seeds, START, manifest.latent_shape)
    if stored.shape != drawn.shape:
        return f"the goldens' is {stored.shape[1:]} large, this model's {drawn.shape[1:]}"
    apart = np.abs(stored - drawn).reshape(len(seeds), -1).max(axis=1)
    worst = int(np.argmax(apart))  # the first that is no number, where there is one
    if apart[worst] <= TOLERANCE:
        return None
    return (
        f"seed {seeds[worst]} gives other start noise here than in the goldens, "
        f"{apart[worst]:.1e} apart (at most {TOLERANCE:.0e} is promised), so no image can match; "
        "compare with `--checkpoint`, which draws both sides' noise here"
    )
