"""Other people's checkpoints through the whole export: 50 steps beside the model they come from.

Each reference walks by itself: its own forward pass, and the sampling loop of its own code base
written out, on the noise that the runtime draws. Nothing of it is the package's but that noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from edt_helpers import EdtShape, edt_forward, edt_weights
from format_helpers import (
    SHAPE,
    diffusers_forward,
    dit_forward,
    dit_weights,
    repa_weights,
    sit_forward,
    write_diffusers,
    write_dit,
    write_training,
)
from torch import Tensor

from pitstop.evaluation.accuracy.reference import load_model
from pitstop.export.pipeline import export_bundle
from pitstop.export.trace import Hints
from pitstop.runtime.bundle.folder import open_bundle
from pitstop.runtime.bundle.manifest import Manifest
from pitstop.runtime.distance import psnr, relative_l2
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.noise import START, draw_noise
from pitstop.runtime.sampling.sampler import Latent
from pitstop.runtime.sampling.schedule.betas import Betas
from pitstop.runtime.sampling.schedule.flow import LinearFlow

STEPS = 50
SCALE = 2.5
SEEDS = (11, 12)
CLASSES = (2, 0)
NULL = SHAPE.classes
Forward = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Source:
    """A checkpoint as its authors write it, and how they sample from it.

    Attributes:
        path: The file or folder.
        hints: What must be said of it.
        forward: Latent, time and label to the model's own output.
        samples: For each sampler of ours, the final latents of the authors' loop.
        facts: What the manifest must say.
    """

    path: Path
    hints: Hints
    forward: Forward
    samples: dict[str, Callable[[], Latent]]
    facts: dict[str, Any]


def guided(forward: Forward, channels: int) -> Callable[[Tensor, float], Tensor]:
    """Guidance as all of these code bases do it: the other channels stay conditional."""
    labels = torch.tensor([*CLASSES, NULL, NULL])

    def denoise(latent: Tensor, time: float) -> Tensor:
        output = forward(
            torch.cat([latent, latent]).float(), torch.full((2 * len(latent),), time), labels
        ).double()
        conditional, null = output.chunk(2)
        mixed = null + SCALE * (conditional - null)
        return torch.cat([mixed[:, :channels], conditional[:, channels:]], dim=1)

    return denoise


def start() -> Tensor:
    return torch.from_numpy(draw_noise(SEEDS, START, (SHAPE.channels, 8, 8))).double()


def ddim(forward: Forward, channels: int) -> Latent:
    """The loop of diffusers' DiT pipeline: the variance is split off and dropped."""
    denoise, latent = guided(forward, channels), start()
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(STEPS)
    for timestep in scheduler.timesteps.tolist():
        epsilon = denoise(latent, float(timestep))[:, : SHAPE.channels]
        latent = scheduler.step(epsilon, timestep, latent).prev_sample
    return latent.numpy().astype(np.float32)


def ddpm(forward: Forward, channels: int) -> Latent:
    """Official DiT's respaced sampling with its learned variance."""
    denoise, latent = guided(forward, channels), start()
    every = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    kept = [round(k * 999 / (STEPS - 1)) for k in range(STEPS)]
    bars = every[kept]
    before = np.append(1.0, bars[:-1])
    betas = 1 - bars / before
    posterior = betas * (1 - before) / (1 - bars)
    clipped = np.log(np.append(posterior[1], posterior[1:]))
    for count, k in enumerate(reversed(range(STEPS))):
        epsilon, v = denoise(latent, float(kept[k])).chunk(2, dim=1)
        share = (v + 1) / 2
        log_variance = share * np.log(betas[k]) + (1 - share) * clipped[k]
        image = latent / bars[k] ** 0.5 - (1 / bars[k] - 1) ** 0.5 * epsilon
        latent = (
            betas[k] * before[k] ** 0.5 / (1 - bars[k]) * image
            + (1 - before[k]) * (1 - betas[k]) ** 0.5 / (1 - bars[k]) * latent
        )
        if k:
            noise = torch.from_numpy(draw_noise(SEEDS, count + 1, tuple(latent.shape[1:])))
            latent = latent + (0.5 * log_variance).exp() * noise
    return latent.numpy().astype(np.float32)


def euler(forward: Forward, channels: int, ends: tuple[int, int]) -> Latent:
    """The loop of SiT and of REPA, each in its own time."""
    denoise, latent = guided(forward, channels), start()
    times = np.linspace(*ends, STEPS + 1)
    for now, after in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        latent = latent + (after - now) * denoise(latent, now)
    return latent.numpy().astype(np.float32)


def heun(forward: Forward, channels: int, ends: tuple[int, int]) -> Latent:
    """Both ends of each of 25 intervals: 50 calls."""
    denoise, latent = guided(forward, channels), start()
    times = np.linspace(*ends, STEPS // 2 + 1)
    for now, after in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        velocity = denoise(latent, now)
        moved = latent + (after - now) * velocity
        latent = latent + (after - now) * 0.5 * (velocity + denoise(moved, after))
    return latent.numpy().astype(np.float32)


def official_dit(folder: Path) -> Source:
    weights = dit_weights()

    def forward(latent: Tensor, time: Tensor, label: Tensor) -> Tensor:
        return dit_forward(weights, latent, time, label)

    return Source(
        write_training(folder / "0400000.pt", weights, num_classes=SHAPE.classes),
        Hints(num_heads=SHAPE.heads),
        forward,
        {"ddpm": lambda: ddpm(forward, 3), "ddim": lambda: ddim(forward, 3)},
        {"prediction_type": "epsilon", "schedule": Betas(), "cfg_channels": 3},
    )


def diffusers_dit(folder: Path) -> Source:
    model = write_diffusers(folder / "transformer", max_shard_size="100KB")

    def forward(latent: Tensor, time: Tensor, label: Tensor) -> Tensor:
        return diffusers_forward(model, latent, time, label)

    return Source(
        folder / "transformer",
        Hints(),
        forward,
        {"ddim": lambda: ddim(forward, 4)},
        {"prediction_type": "epsilon", "schedule": Betas(), "cfg_channels": 4},
    )


def sit(folder: Path) -> Source:
    weights = dit_weights()

    def forward(latent: Tensor, time: Tensor, label: Tensor) -> Tensor:
        return sit_forward(weights, latent, time, label)

    return Source(
        write_dit(folder / "weights.pt", weights),
        Hints("sit", SHAPE.heads),
        forward,
        {"euler": lambda: euler(forward, 3, (0, 1)), "heun": lambda: heun(forward, 3, (0, 1))},
        {"prediction_type": "velocity", "schedule": LinearFlow(1), "cfg_channels": 3},
    )


def repa(folder: Path) -> Source:
    weights = repa_weights()

    def forward(latent: Tensor, time: Tensor, label: Tensor) -> Tensor:
        return dit_forward(weights, latent, time, label)

    return Source(
        write_training(folder / "last.pt", weights),
        Hints(num_heads=SHAPE.heads),
        forward,
        {"euler": lambda: euler(forward, 4, (1, 0)), "heun": lambda: heun(forward, 4, (1, 0))},
        {"prediction_type": "velocity", "schedule": LinearFlow(0), "cfg_channels": 4},
    )


def edt(folder: Path) -> Source:
    shape = EdtShape(grid=SHAPE.grid, heads=(SHAPE.heads, 6), depths=(1, 2, 1))
    weights = edt_weights(shape)

    def forward(latent: Tensor, time: Tensor, label: Tensor) -> Tensor:
        return edt_forward(weights, latent, time, label, shape)

    return Source(
        write_training(folder / "0400000.pt", weights),
        Hints(),
        forward,
        {"ddpm": lambda: ddpm(forward, 3), "ddim": lambda: ddim(forward, 3)},
        {"prediction_type": "epsilon", "schedule": Betas(), "cfg_channels": 3},
    )


SOURCES = {"dit": official_dit, "diffusers": diffusers_dit, "sit": sit, "repa": repa, "edt": edt}


@pytest.fixture(scope="module", params=SOURCES)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    return SOURCES[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def bundle(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "bundle"
    report = export_bundle(
        str(source.path), out, batch=4, precisions=("fp32", "fp16"), hints=source.hints
    )
    assert report.passed
    return out


def test_the_manifest_says_what_the_runtime_must_know(source: Source, bundle: Path) -> None:
    manifest = open_bundle(bundle).manifest

    assert {name: getattr(manifest, name) for name in source.facts} == source.facts
    assert manifest.model.format
    assert manifest.model.licence
    assert (manifest.latent_space, manifest.latent_scale) == ("vae", 0.18215)
    assert (manifest.label.classes, manifest.label.null) == (SHAPE.classes, NULL)
    assert "conditioner" in manifest.graphs
    assert manifest == Manifest.from_json(manifest.to_json())


def test_one_call_is_that_of_the_source(source: Source, bundle: Path) -> None:
    pipeline = Pipeline.from_bundle(bundle)
    flow = source.facts["prediction_type"] == "velocity"
    latent = draw_noise(range(4), START, (SHAPE.channels, 8, 8))
    labels = np.array([0, 1, 2, NULL])
    for time in [0.0, 0.3, 1.0] if flow else [0.0, 341.0, 999.0]:
        expected = source.forward(
            torch.from_numpy(latent), torch.full((4,), time), torch.from_numpy(labels)
        ).numpy()

        found = pipeline.predict(latent, time, {"label": labels})[:, : expected.shape[1]]

        assert relative_l2(expected, found) <= 1e-5


def test_fifty_steps_end_where_those_of_the_source_end(source: Source, bundle: Path) -> None:
    pipeline = Pipeline.from_bundle(bundle)
    for sampler, sample in source.samples.items():
        expected = sample()

        found = pipeline(
            CLASSES, seeds=SEEDS, steps=STEPS, sampler=sampler, cfg_scale=SCALE
        ).latents

        for wanted, image in zip(expected, found, strict=True):
            assert psnr(wanted, image, float(np.ptp(wanted))) >= 60


def test_a_bundle_finds_its_source_again_without_being_told(source: Source, bundle: Path) -> None:
    """What the user said at export stands in the manifest, for a comparison with PyTorch live."""
    model = load_model(str(source.path), open_bundle(bundle).manifest)
    assert model.config.num_heads == SHAPE.heads
    assert model.config.prediction_type == source.facts["prediction_type"]
