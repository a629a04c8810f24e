"""Whether this machine draws the noise that the goldens' images began from."""

from __future__ import annotations

import numpy as np

from ...runtime.bundle.goldens import Goldens
from ...runtime.bundle.manifest import Manifest
from ...runtime.sampling.noise import NUMPY, draw_start
from ...runtime.sampling.samplers import sampler_for

TOLERANCES = {NUMPY: 1e-6}  # other C libraries round its tails otherwise; other rules are exact


def why_other_noise(goldens: Goldens, manifest: Manifest) -> str | None:
    """Say how far the noise of the same seeds is from the goldens', or None where it is the same.

    The first call is fed what the images begin from, as many as it has rows for.
    """
    stored = goldens.latents[0][: len(goldens.seeds)]
    seeds = goldens.seeds[: len(stored)].tolist()
    schedule = sampler_for(manifest, goldens.settings).schedule
    drawn = draw_start(seeds, schedule, manifest.latent_shape, manifest.noise)
    if stored.shape != drawn.shape:
        return f"the goldens' is {stored.shape[1:]} large, this model's {drawn.shape[1:]}"
    apart = np.abs(stored - drawn).reshape(len(seeds), -1).max(axis=1)
    worst = int(np.argmax(apart))  # the first that is no number, where there is one
    tolerance = TOLERANCES.get(manifest.noise, 0.0)
    if apart[worst] <= tolerance:
        return None
    promised = f" (at most {tolerance:g} is promised)" if tolerance else ""
    return (
        f"seed {seeds[worst]} gives other start noise here than in the goldens, "
        f"{apart[worst]:.1e} apart{promised}, so no image can match; "
        "compare with `--checkpoint`, which draws both sides' noise here"
    )
