"""The rows that a denoiser is fed while it is calibrated, and who draws them."""
