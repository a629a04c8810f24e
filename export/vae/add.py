"""A VAE's decoder becomes part of a bundle, in fp32 and fp16, each held against PyTorch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ... import CheckpointError, OptionError
from ...graphs.graph_file import run_calls, write_graph
from ...runtime.bundle.goldens import Goldens
from ...runtime.bundle.manifest import DECODERS, Manifest
from ...runtime.decoder import INPUT, OUTPUT, decoder_latent
from ...runtime.distance import psnr
from ...runtime.machine.system import installed_versions
from ...runtime.sampling.noise import START, draw_noise
from ...runtime.sampling.sampler import Latent
from ...runtime.stage import OnStage, unheard
from .lower import lower_decoder
from .trace import Vae, trace_decoder

TILE = 64  # latent pixels: 512 image pixels of SD's VAE
MAX_BATCH = 64
LEAST_PSNR = {"decoder.fp32": 60.0, "decoder.fp16": 45.0}  # in dB, of an image in [-1, 1]
PEAK = 2.0


@dataclass(frozen=True)
class VaeParity:
    """How far a graph of a VAE is from PyTorch.

    Attributes:
        psnr_db: Of each call.
        least_db: What the smallest of them must be.
    """

    psnr_db: tuple[float, ...]
    least_db: float

    @property
    def worst(self) -> float:
        return float(np.min(self.psnr_db))

    @property
    def passed(self) -> bool:
        return self.worst >= self.least_db  # false for NaN too


@dataclass(frozen=True)
class VaeShape:
    """The latents of one call of a VAE's graph.

    Attributes:
        batch: Images.
        tile: Latent pixels along one side; a smaller latent is taken whole.
    """

    batch: int = 1
    tile: int = TILE

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= MAX_BATCH:
            raise OptionError(f"The VAE's batch is {self.batch}", f"Choose 1 to {MAX_BATCH} images")
        if self.tile < 8:
            raise OptionError(
                f"The VAE's tile is {self.tile} latent pixels wide", "Choose at least 8"
            )


ONE_TILE = VaeShape()


def manifest_with(vae: Vae, manifest: Manifest) -> Manifest:
    """The manifest of a model that draws a VAE's latents, with their scale and shift.

    Raises:
        CheckpointError: The denoiser draws something of other channels.
    """
    name, channels = manifest.model.name, manifest.latent_shape[0]
    if vae.latent_channels != channels:
        found = f"the VAE's latents have {vae.latent_channels} channels"
        if manifest.latent_space == "pixel":
            raise CheckpointError(
                f"{name} draws pixels, or latents of {channels} channels, and {found}",
                "Leave out `--vae`, or name the VAE that the model was trained with",
            )
        raise CheckpointError(
            f"{found[0].upper()}{found[1:]}, those of {name} {channels}",
            "Name the VAE that the model was trained with",
        )
    return dataclasses.replace(
        manifest, latent_space="vae", latent_scale=vae.scale, latent_shift=vae.shift
    )


def add_decoders(
    manifest: Manifest,
    folder: Path,
    vae: Vae,
    shape: VaeShape,
    goldens: Goldens,
    opset: int,
    on_stage: OnStage = unheard,
) -> tuple[Manifest, dict[str, VaeParity]]:
    """Write a decoder in fp32 and fp16, and hold both against PyTorch.

    fp16's gate holds for the graph and for the twin that rounds as a device does.
    """
    calls = [
        decoder_latent(latent, manifest) for latent in example_latents(manifest, shape, goldens)
    ]
    feeds = [{INPUT: latent} for latent in calls]
    on_stage("tracing the decoder")
    traced = trace_decoder(vae, calls[0].shape, opset)
    on_stage("writing the decoder in fp16")
    lowered = lower_decoder(traced, feeds)
    report = dataclasses.replace(lowered.report, name=DECODERS[1])
    on_stage("comparing the decoder with PyTorch")
    expected = [vae.decode(latent) for latent in calls]
    models = dict(zip(DECODERS, (traced, lowered.model), strict=True))
    found = {
        name: [answer[OUTPUT] for answer in run_calls(model, feeds)]
        for name, model in models.items()
    }
    found[DECODERS[1]] += lowered.predictions
    parities = {
        name: VaeParity(
            tuple(
                psnr(expected[index % len(expected)], image, PEAK)
                for index, image in enumerate(images)
            ),
            LEAST_PSNR[name],
        )
        for name, images in found.items()
    }
    graphs = {name: write_graph(model, folder, name) for name, model in models.items()}
    manifest = dataclasses.replace(
        manifest,
        graphs={**manifest.graphs, **graphs},
        passes=(*manifest.passes, report),
        versions={**manifest.versions, **installed_versions(("diffusers",))},
    )
    return manifest, parities


def example_latents(manifest: Manifest, shape: VaeShape, goldens: Goldens) -> list[Latent]:
    """A tile of noise, and one of the latents that the goldens' trajectories end with."""
    _, *sides = manifest.latent_shape
    height, width = (min(shape.tile, side) for side in sides)
    noise = draw_noise(range(shape.batch), START, manifest.latent_shape)
    drawn = goldens.trajectory[-1][np.arange(shape.batch) % goldens.trajectory.shape[1]]
    return [np.ascontiguousarray(latent[:, :, :height, :width]) for latent in (noise, drawn)]
