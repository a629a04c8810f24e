"""The fastest matmuls of this machine, to hold a denoiser's against."""
