"""What a user says of a model's schedule where no scheduler came with it, or another one."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from .. import OptionError, one_of
from ..runtime.bundle.manifest import Manifest
from ..runtime.sampling.sampler import NOISE_PREDICTIONS
from ..runtime.sampling.schedule.betas import BETA_RULES, SQUARED_COSINE, Betas
from ..runtime.sampling.schedule.flow import LinearFlow
from ..runtime.sampling.schedule.shift import MOST_SHIFT
from .scheduler_config import MOST_STEPS

FORM = "NAME:start:end:steps, such as scaled_linear:0.00085:0.012:1000"


@dataclass(frozen=True)
class ByHand:
    """What is said; None where it is not.

    Attributes:
        prediction: ``epsilon``, ``v_prediction`` or ``sample``.
        betas: ``NAME:start:end:steps``; what is left empty is DiT's.
        shift: Of a flow's times, above 0.
    """

    prediction: str | None = None
    betas: str | None = None
    shift: float | None = None

    def __bool__(self) -> bool:
        return any(value is not None for value in dataclasses.astuple(self))

    @property
    def says_all(self) -> bool:
        """Whether nothing of what a model was trained on is left to a scheduler's file."""
        return self.prediction is not None and self.betas is not None

    def onto(self, manifest: Manifest) -> Manifest:
        """The manifest with what is said.

        Raises:
            OptionError: It does not go with the model, or is not a value that there is.
        """
        if isinstance(manifest.schedule, LinearFlow):
            return self._onto_flow(manifest, manifest.schedule)
        if self.shift is not None:
            raise OptionError(
                f"`--shift {self.shift:g}` is for a flow, and this model has timesteps",
                "Leave it out",
            )
        if self.prediction is not None and self.prediction not in NOISE_PREDICTIONS:
            raise one_of("prediction", self.prediction, NOISE_PREDICTIONS)
        schedule = manifest.schedule if self.betas is None else read_betas(self.betas)
        return dataclasses.replace(
            manifest,
            schedule=schedule,
            prediction_type=self.prediction or manifest.prediction_type,
        )

    def _onto_flow(self, manifest: Manifest, flow: LinearFlow) -> Manifest:
        for name in ("prediction", "betas"):
            if (value := getattr(self, name)) is not None:
                raise OptionError(
                    f"`--{name} {value}` is for a model with timesteps, and this one is a flow, "
                    "which predicts a velocity",
                    "Leave it out; `--shift` is for flows",
                )
        if self.shift is None:
            return manifest
        if not 0 < self.shift <= MOST_SHIFT:
            raise OptionError(
                f"The shift is {self.shift:g}", f"Choose a number above 0, up to {MOST_SHIFT:g}"
            )
        return dataclasses.replace(manifest, schedule=dataclasses.replace(flow, shift=self.shift))


def read_betas(text: str) -> Betas:
    """Betas of ``NAME:start:end:steps``.

    Raises:
        OptionError: It has another form, or a number that betas cannot have.
    """
    name, *numbers = text.split(":")
    if name not in BETA_RULES:
        raise one_of("beta schedule", name, BETA_RULES)
    if len(numbers) > 3:
        raise OptionError(f"`--betas {text}` has {len(numbers) + 1} parts", f"Say {FORM}")
    start, end, steps = (part or None for part in (*numbers, "", "", "")[:3])
    if name == SQUARED_COSINE and (start or end):
        raise OptionError(
            f"`--betas {text}` has a start or an end, and {name} has none",
            f"Say {name} alone, or {name}:::{steps or 1000}",
        )
    try:
        betas = Betas(
            int(steps or Betas.train_steps),
            float(start or Betas.beta_start),
            float(end or Betas.beta_end),
            name,
        )
    except ValueError as error:
        raise OptionError(
            f"`--betas {text}` has a part that is no number", f"Say {FORM}"
        ) from error
    ends = (betas.beta_start, betas.beta_end)
    if not all(map(math.isfinite, ends)) or not 0 < ends[0] <= ends[1] < 1:
        raise OptionError(
            f"`--betas {text}` rises from {ends[0]:g} to {ends[1]:g}",
            "Choose a start and an end in (0, 1), the end not below the start",
        )
    if not 1 <= betas.train_steps <= MOST_STEPS:
        raise OptionError(f"`--betas {text}` has {steps} steps", f"Choose 1 to {MOST_STEPS}")
    return betas
