"""A request: images that are drawn alike and in step, as a loop is asked for them.

Rows of several requests share the denoiser's calls. Each has its own sampler, guidance scale,
conditions, and place in its own steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ... import OptionError
from .condition import Condition
from .init import Init
from .noise import START, draw_noise, draw_start
from .sampler import Latent, Sampler


@dataclass(frozen=True)
class Request:
    """Images that go from noise to latents side by side.

    Attributes:
        seeds: One for each image.
        conditions: What each image is told.
        sampler: The rule, and the timesteps that it visits.
        cfg_scale: Guidance scale; 1 is no guidance, and costs half.
        untold: What the unguided branch is told, or None where the model cannot be guided.
        start: The step of the loop that it joins at.
        init: What its images begin with in the place of noise alone.
    """

    seeds: Sequence[int]
    conditions: Sequence[Condition]
    sampler: Sampler
    cfg_scale: float = 1.0
    untold: Condition | None = None
    start: int = 0
    init: Init | None = None

    def __post_init__(self) -> None:
        if self.guided and self.untold is None:
            raise OptionError(
                f"A guidance scale of {self.cfg_scale} was asked for, but this model was trained "
                "without label dropout",
                "Use `--cfg-scale 1`",
            )

    @property
    def guided(self) -> bool:
        return self.cfg_scale != 1.0

    @property
    def images(self) -> int:
        return len(self.seeds)

    @property
    def steps(self) -> int:
        return self.sampler.schedule.steps

    @property
    def end(self) -> int:
        """The step of the loop before which its images are whole."""
        return self.start + self.steps

    def begin(self, shape: tuple[int, int, int], rule: str) -> Latent:
        """What its images start from, by a rule of noise: float32 [image, channel, row, column]."""
        schedule = self.sampler.schedule
        if self.init is None:
            return draw_start(self.seeds, schedule, shape, rule)
        return self.init.begin(schedule, draw_noise(self.seeds, START, shape, rule))

    @property
    def told(self) -> list[Condition]:
        """What each row is told: the images, then each once more untold where it is guided."""
        if self.guided and self.untold is not None:
            return [*self.conditions, *([self.untold] * self.images)]
        return list(self.conditions)
