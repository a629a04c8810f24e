"""How the scheduler that came with a model runs, where nothing else is asked for."""

from __future__ import annotations

from dataclasses import dataclass

AUTO = "auto"


@dataclass(frozen=True)
class Scheduler:
    """What a pipeline's scheduler says of a run; by default what each sampler does by itself.

    Attributes:
        sampler: What ``auto`` takes.
        spacing: Of its timesteps, one of ``spacing.SPACINGS``; ``auto`` for the sampler's own.
        steps_offset: What ``leading`` timesteps are raised by.
        set_alpha_to_one: Whether ddim's last step ends at the clean image, not at timestep 0.
        clip_sample_range: What ddim and ddpm cut a predicted image to, plus and minus; 0 for no
            cut. It is not linear, so such a run's loop is the host's.
    """

    sampler: str = AUTO
    spacing: str = AUTO
    steps_offset: int = 0
    set_alpha_to_one: bool = True
    clip_sample_range: float = 0.0

    @property
    def called(self) -> str:
        """In users' words; empty where it says nothing."""
        parts = [
            self.sampler if self.sampler != AUTO else "",
            f"{self.spacing} timesteps" if self.spacing != AUTO else "",
            f"offset {self.steps_offset}" if self.steps_offset else "",
            "" if self.set_alpha_to_one else "ends at timestep 0",
            f"clips to {self.clip_sample_range:g}" if self.clip_sample_range else "",
        ]
        return ", ".join(part for part in parts if part)


NONE = Scheduler()
"""Of a model that came without one."""
