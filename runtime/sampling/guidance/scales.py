"""The guidance scale of each step of a run, and whether what that leaves out pays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...bundle.manifest import Manifest
from ..loop import Loop
from ..schedule import Training, Visits
from ..settings import Settings
from .cfg_schedule import CONSTANT, CfgSchedule
from .interval import Interval

WORTH_THE_HOST = 0.1  # of the rows: what a host's loop of 0.4 ms a step costs beside calls of 4 ms


def usual_scale(manifest: Manifest) -> float:
    """Of a run that nobody says more of: guided where the model can be, as such models are used."""
    return Settings.cfg_scale if manifest.guidable else 1.0


def scales_of(settings: Settings, visits: Visits, training: Training) -> tuple[float, ...] | None:
    """The guidance scale of each step, 1 where it is not guided; None where all are alike.

    Raises:
        OptionError: No step of the run lies in the guidance interval.
    """
    if not settings.guided or not settings.guidance_varies:
        return None
    schedule = CfgSchedule.parse(settings.cfg_schedule or CONSTANT)
    scales = schedule.scales(settings.cfg_scale, visits, training)
    if settings.cfg_interval is not None:
        inside = Interval.parse(settings.cfg_interval).holds(visits, training)
        scales = np.where(inside, scales, 1.0)
    return tuple(map(float, scales))


def pays_to_pack(scales: Sequence[float], loop: Loop) -> bool:
    """Whether the rows that unguided steps save are worth packing the others into fuller calls.

    The host's loop packs, so a loop that keeps its latents on a device gives them up for it.
    """
    saved = scales.count(1.0) / (2 * len(scales)) if scales else 0.0
    return saved > 0 and (saved >= WORTH_THE_HOST or not loop.keeps_latents)
