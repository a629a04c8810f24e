"""The names of a denoiser's tensors, in one place, and what part each of them plays."""

from __future__ import annotations

from ..runtime.bundle.manifest import LATENT as LATENT  # the noisy image, fed in every step
from ..runtime.bundle.manifest import PREDICTION as PREDICTION  # the noise or the velocity
from ..runtime.bundle.manifest import TIMESTEP as TIMESTEP  # what a step is called

LABEL = "label"  # with the timestep, what the conditioner is asked
MODULATION = "modulation"  # its answer, which a denoiser is fed in their place

INPUTS = (LATENT, TIMESTEP, LABEL)  # of a denoiser as it is traced, in order
