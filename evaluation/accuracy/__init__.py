"""How close a bundle is to PyTorch."""
