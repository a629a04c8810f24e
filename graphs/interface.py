"""The names of a denoiser's tensors, in one place, and what part each of them plays."""

from __future__ import annotations

LATENT = "latent"
TIMESTEP = "timestep"
LABEL = "label"
MODULATION = "modulation"
PREDICTION = "prediction"
