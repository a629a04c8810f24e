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
from .noise import START, TORCH, as_start, draw_noise
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
        scales: The guidance scale of each step, 1 where the unguided branch is not asked; None for
            ``cfg_scale`` at all of them.
        cfg_channels: How many leading channels are guided; None for as many as the manifest says.
        noise: The rule that its noise is drawn by; None for the bundle's.
        latents: The noise that its images start from, float32 [image, channel, row, column]; None
            for that of their seeds.
        init: What its images begin with in the place of noise alone: its noise is as said.
    """

    seeds: Sequence[int]
    conditions: Sequence[Condition]
    sampler: Sampler
    cfg_scale: float = 1.0
    untold: Condition | None = None
    start: int = 0
    scales: tuple[float, ...] | None = None
    cfg_channels: int | None = None
    noise: str | None = None
    latents: Latent | None = None
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
    def pauses(self) -> bool:
        """Whether some of its steps are guided and some are not."""
        return self.guided and self.scales is not None and 1.0 in self.scales

    def scale(self, step: int) -> float:
        """The guidance scale of one of its steps."""
        return self.cfg_scale if self.scales is None else self.scales[step]

    def begin(self, shape: tuple[int, int, int], rule: str) -> Latent:
        """What its images start from: float32 [image, channel, row, column]."""
        return self.begin_from(self.start_noise(shape, rule))

    def begin_from(self, noise: Latent) -> Latent:
        """What its images start from, with the noise in it of variance 1."""
        schedule = self.sampler.schedule
        if self.init is None:
            return as_start(noise, schedule)
        return self.init.begin(schedule, noise)

    def start_noise(self, shape: tuple[int, int, int], rule: str) -> Latent:
        """The noise in it, by the bundle's rule where it has none of its own."""
        if self.latents is not None:
            return self.latents
        return draw_noise(self.seeds, START, shape, self.noise or rule)

    def fresh_noise(self, step: int, shape: tuple[int, int, int], rule: str) -> Latent:
        """What one of its steps adds, which PyTorch's generator draws after all before."""
        draws_before = 0 if self.noise == TORCH and self.latents is not None else 1
        return draw_noise(self.seeds, step + draws_before, shape, self.noise or rule)

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

    def told_at(self, step: int) -> list[Condition]:
        """What each row is told at one of its steps: the untold half where it is guided alone."""
        return self.told if self.scale(step) != 1.0 else list(self.conditions)

    @property
    def told(self) -> list[Condition]:
        """What each row is told: the images, then each once more untold where it is guided."""
        if self.guided and self.untold is not None:
            return [*self.conditions, *([self.untold] * self.images)]
        return list(self.conditions)
