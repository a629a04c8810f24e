"""How fast a bundle is, beside PyTorch and the machine's own peak."""
