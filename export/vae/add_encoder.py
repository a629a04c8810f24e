"""A VAE's encoder becomes part of a bundle, in fp32, held against PyTorch as the decoder is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from ...graphs.graph_file import run_calls, write_graph
from ...runtime.bundle.goldens import Goldens
from ...runtime.bundle.manifest import ENCODER, Manifest
from ...runtime.decoder import Pixels, decoder_latent
from ...runtime.distance import psnr
from ...runtime.encoder import INPUT, OUTPUT, encoder_latent
from ...runtime.sampling.noise import START, draw_noise
from ...runtime.sampling.sampler import Latent
from ...runtime.stage import OnStage, unheard
from .add import PEAK, VaeParity, VaeShape, example_latents
from .trace import Vae, trace_encoder

LEAST_PSNR = 60.0  # in dB, of a latent as the denoiser has it, about as wide as an image in [-1, 1]
NO_ENCODER = (
    "the VAE's folder has no encoder for its images, so no image can be begun with "
    "(`generate --init`)"
)


def add_encoder(
    manifest: Manifest,
    folder: Path,
    vae: Vae,
    shape: VaeShape,
    goldens: Goldens,
    opset: int,
    on_stage: OnStage = unheard,
) -> tuple[Manifest, dict[str, VaeParity], tuple[str, ...]]:
    """Write an encoder for one image, or a tile of it, and hold it against PyTorch.

    A VAE without one adds nothing but a note of it.
    """
    if vae.encoder is None:
        return manifest, {}, (NO_ENCODER,)
    calls = example_images(manifest, vae, shape, goldens)
    on_stage("tracing the encoder")
    traced = trace_encoder(vae, calls[0].shape, opset)
    on_stage("comparing the encoder with PyTorch")
    found = [answer[OUTPUT] for answer in run_calls(traced, [{INPUT: image} for image in calls])]
    parity = VaeParity(
        tuple(
            _psnr(vae.encode(image), latent.astype(np.float32), manifest)
            for image, latent in zip(calls, found, strict=True)
        ),
        LEAST_PSNR,
    )
    graphs = {**manifest.graphs, ENCODER: write_graph(traced, folder, ENCODER)}
    return dataclasses.replace(manifest, graphs=graphs), {ENCODER: parity}, ()


def _psnr(expected: Latent, found: Latent, manifest: Manifest) -> float:
    """In dB, of latents as the denoiser has them."""
    return psnr(encoder_latent(expected, manifest), encoder_latent(found, manifest), PEAK)


def example_images(manifest: Manifest, vae: Vae, shape: VaeShape, goldens: Goldens) -> list[Pixels]:
    """A tile of noise, and one of the picture that the decoder makes of a drawn latent."""
    one = dataclasses.replace(shape, batch=1)
    *_, drawn = example_latents(manifest, one, goldens)
    picture = vae.decode(decoder_latent(drawn, manifest))
    noise = draw_noise([0], START, (vae.image_channels, *picture.shape[2:]))
    return [np.clip(image, -1, 1) for image in (noise, picture)]
