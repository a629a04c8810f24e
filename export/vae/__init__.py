"""The VAE's decoder as graphs of a bundle."""
