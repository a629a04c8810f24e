"""What runs on a GPU: CUDA, engines, and loops whose latents stay there."""
