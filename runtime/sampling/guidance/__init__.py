"""Guidance: how much of it each step of a run has, and what it makes of the denoiser's answers."""
