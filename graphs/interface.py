"""The names of a denoiser's tensors, in one place, and what part each of them plays."""

from __future__ import annotations

LATENT = "latent"  # the noisy image, fed in every step
TIMESTEP = "timestep"  # with the label, what the conditioner is asked
LABEL = "label"
MODULATION = "modulation"  # its answer, which a denoiser is fed in their place
PREDICTION = "prediction"  # the noise or the velocity

INPUTS = (LATENT, TIMESTEP, LABEL)  # of a denoiser as it is traced, in order
