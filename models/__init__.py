"""PyTorch denoisers, their configs and their checkpoints."""

from .checkpoint import load_checkpoint, save_checkpoint

__all__ = ["load_checkpoint", "save_checkpoint"]
