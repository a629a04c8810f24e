"""What a graph's answers are taken for: two exports of the same weights may differ in it."""

from __future__ import annotations

import dataclasses
import hashlib
import json

from .manifest import Manifest


def schedule_sha256(manifest: Manifest) -> str:
    """Of the schedule, the prediction type, and all else between an answer and an image."""
    facts = [
        manifest.prediction_type,
        dataclasses.asdict(manifest.schedule),
        dataclasses.asdict(manifest.scheduler),
        manifest.noise,
        manifest.latent_space,
        manifest.latent_scale,
        manifest.latent_shift,
        manifest.learn_sigma,
        manifest.cfg_channels,
        [(condition.name, condition.null) for condition in manifest.conditions],
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
