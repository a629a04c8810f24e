"""Train the demo's PiT on Fashion-MNIST: EMA weights, resumable, the same from the same seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import CheckpointError
from ..config import config_to_dict
from ..denoiser import initialize_for_training
from ..pit import Pit, PitConfig
from ..whole_file import whole_file
from .diffusion import alpha_bar, epsilon_loss
from .fashion_mnist import LabelledImages


@dataclass(frozen=True)
class Recipe:
    """How the denoiser is trained.

    Attributes:
        steps: Optimizer steps in all.
        batch: Images a step.
        learning_rate: The peak, held between ``warmup`` steps of rise and a linear fall to 0 over
            the last ``decay`` of the steps.
        ema: Decay of the averaged weights, which are the ones that ship.
    """

    steps: int
    batch: int = 64
    learning_rate: float = 1e-3
    warmup: int = 500
    decay: float = 0.25
    ema: float = 0.999
    seed: int = 0

    def rate(self, step: int) -> float:
        """The learning rate of ``step``, counted from 0."""
        rise = min(1.0, (step + 1) / self.warmup)
        fall = min(1.0, (self.steps - step) / (self.decay * self.steps))
        return self.learning_rate * min(rise, fall)


@dataclass
class Training:
    """A training under way: what a state file holds."""

    model: Pit
    ema: Pit
    optimizer: torch.optim.Optimizer
    step: int = 0

    def save(self, path: Path) -> None:
        """Write the state, whole or not at all: a killed run leaves the last one."""
        state = {
            "config": config_to_dict(self.model.config),
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
        with whole_file(path) as beside:
            torch.save(state, beside)

    def restore(self, path: Path) -> None:
        """Go on from what `save` wrote.

        Raises:
            CheckpointError: It wrote a model of another config.
        """
        state: dict[str, Any] = torch.load(path, weights_only=True)
        if state["config"] != config_to_dict(self.model.config):
            raise CheckpointError(
                f"{path} holds another model than the one to train",
                "Remove it, or name another folder with `--out`",
            )
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


def start(config: PitConfig, recipe: Recipe) -> Training:
    """A model with fresh weights, its average and its optimizer."""
    torch.manual_seed(recipe.seed)
    model = Pit(config)
    initialize_for_training(model)
    ema = Pit(config)
    ema.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(
        (weight for weight in model.parameters() if weight.requires_grad),
        lr=recipe.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=0.0,
        fused=True,
    )
    return Training(model, ema, optimizer)


def run(training: Training, recipe: Recipe, images: LabelledImages) -> Iterator[float]:
    """Train on to ``recipe.steps``, and give the loss of each step.

    Every step draws from its own generator, so a resumed run equals one that never stopped.
    """
    signal = alpha_bar()
    while training.step < recipe.steps:
        generator = torch.Generator().manual_seed(recipe.seed * 2**32 + training.step)
        chosen = torch.randint(len(images.images), (recipe.batch,), generator=generator)
        for group in training.optimizer.param_groups:
            group["lr"] = recipe.rate(training.step)
        with torch.autocast("cpu", torch.bfloat16):
            loss = epsilon_loss(
                training.model, images.images[chosen], images.labels[chosen], signal, generator
            )
        training.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(training.model.parameters(), 1.0)
        training.optimizer.step()
        training.step += 1
        _average(training, recipe.ema)
        yield loss.item()


@torch.no_grad()
def _average(training: Training, decay: float) -> None:
    decay = min(decay, training.step / (training.step + 10))
    averages: list[Tensor] = list(training.ema.parameters())
    torch._foreach_lerp_(averages, list(training.model.parameters()), 1 - decay)
