"""Fit what stands in where the denoiser is not called, on the model's own trajectories."""
