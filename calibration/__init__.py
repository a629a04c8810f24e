"""From real denoising trajectories to an int8 graph; without PyTorch."""
