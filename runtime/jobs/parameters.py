"""What an image depends on: its own label and seed, what its run shares, and where it was drawn."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ... import __version__
from ..bundle.manifest import CONDITIONER, ENCODER, STEP
from ..bundle.schedule_hash import schedule_sha256
from ..pipeline import Pipeline
from ..sampling.init import Init
from ..sampling.settings import Settings
from .plan import PlannedImage


def parameters(
    pipeline: Pipeline, image: PlannedImage, shared: Mapping[str, Any]
) -> dict[str, Any]:
    """All of it, as it goes into the image's file; ``shared`` is what `shared_settings` says."""
    manifest = pipeline.manifest
    told = {
        **shared,
        "backend": pipeline.session.device,
        "label": image.label,
        "label_name": image.name,
        "seed": image.seed,
    }
    if image.latent is not None:
        told["latent_sha256"] = hashlib.sha256(image.latent.tobytes()).hexdigest()
    if pipeline.loop.keeps_latents:
        told["step_sha256"] = manifest.graph_sha256(STEP)
    return told


def shared_settings(
    pipeline: Pipeline, settings: Settings, init: Init | None = None
) -> dict[str, Any]:
    """What all images of a folder have in common, whoever draws them."""
    manifest = pipeline.manifest
    graphs = {"denoiser": f"denoiser.{pipeline.precision}"}
    if CONDITIONER in manifest.graphs:
        graphs[CONDITIONER] = CONDITIONER
    decoder = manifest.decoder_name(pipeline.precision)
    if decoder is not None:
        graphs["decoder"] = decoder
    if init is not None and ENCODER in manifest.graphs:
        graphs["encoder"] = ENCODER
    return {
        **settings.as_dict(),
        **({} if init is None else {"strength": init.strength, **init.facts}),
        "precision": pipeline.precision,
        "model": manifest.model.name,
        **{f"{name}_sha256": manifest.graph_sha256(graph) for name, graph in graphs.items()},
        "schedule_sha256": schedule_sha256(manifest),
        **_forecast(pipeline, settings, init),
        "pitstop": __version__,
    }


def _forecast(pipeline: Pipeline, settings: Settings, init: Init | None) -> dict[str, str]:
    """What images of fewer calls depend on too: where they are, and what stands in."""
    chosen = pipeline.forecast(settings, init)
    if chosen is None:
        return {}
    facts = json.dumps(dataclasses.asdict(chosen.plan)).encode()
    return {"forecast_sha256": hashlib.sha256(facts).hexdigest()}
