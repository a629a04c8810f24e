"""Classifier-free guidance (Ho & Salimans, 2022): from the untold branch on past the told one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..bundle.manifest import Manifest
from .cfg_schedule import CONSTANT, CfgSchedule
from .interval import Interval
from .loop import Loop
from .sampler import Latent, Prediction
from .schedule import Training, Visits
from .settings import Settings

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


def guide(
    output: Latent, manifest: Manifest, cfg_scale: float, channels: int | None = None
) -> Prediction:
    """What a denoiser says of images, of its rows.

    Args:
        output: float32 [row, output channel, row, column]: the images, and where they are guided
            the same images once more, untold.
        manifest: Says which channels are guided, and whether half of them are a variance.
        cfg_scale: 1 is no guidance.
        channels: How many leading channels are guided, where not as the manifest says.
    """
    if cfg_scale != 1.0:
        told, untold = np.split(output, 2)
        channels = manifest.cfg_channels if channels is None else channels
        output = told.copy()
        output[:, :channels] = untold[:, :channels] + cfg_scale * (
            told[:, :channels] - untold[:, :channels]
        )
    if not manifest.learn_sigma:
        return Prediction(output)
    return Prediction(*np.split(output, 2, axis=1))
