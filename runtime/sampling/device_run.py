"""A run whose latents stay on the device: told everything before its loop, and asked at its end.

The denoiser and the step's graph (`export.step_graph`) hand each other their tensors there. What
differs from run to run is fed: the sampler's program, and which rows guide which. A run that went
wrong is done again step by step on the host, which names the step; so is one whose rows need more
than one denoiser call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from ..backend import Array, Session
from ..bundle.folder import Bundle
from ..bundle.manifest import STEP, GraphSpec
from .conditioning import ConditionedSession
from .guidance import GuidedDenoiser, Labels
from .noise import START, draw_noise
from .sampler import Latent, Sampler
from .step_table import Program, write_program

LATENT = "latent"
PREDICTION = "prediction"
NOISE = "noise"
CARRIED = {"latent": "next_latent", "memory_0": "next_memory_0", "memory_1": "next_memory_1"}
"""The step's inputs that come from its own outputs, a step before."""


@dataclass(frozen=True)
class Run:
    """One group of images on their way, as a device takes it.

    Attributes:
        latent: float32 [row, channel, row, column], the noise that the run starts from.
        program: What the sampler does at each step.
        constants: The step's inputs that are the same at all steps, by name.
        feeds: The denoiser's inputs at a step, by name, without the latent.
        noise: The fresh noise of a step, as ``latent``; None where the sampler takes none.
    """

    latent: Latent
    program: Program
    constants: Mapping[str, Array]
    feeds: Callable[[int], Mapping[str, Array]]
    noise: Callable[[int], Latent] | None

    def tables(self, step: int) -> dict[str, Array]:
        """The step's inputs that change from step to step, without the noise."""
        return {"move": self.program.moves[step], "deviation": self.program.deviations[step]}


class Loop(Protocol):
    """A denoiser and its step, opened together on one device, and closed with the denoiser."""

    def sample(self, run: Run, on_step: Callable[[], None]) -> Latent:
        """Take all steps and give the last latent, float32 [row, channel, row, column].

        ``on_step`` is told of each; there may be two more under way on the device.
        """


@runtime_checkable
class ResidentSession(Session, Protocol):
    """A session that can keep the latents where it runs."""

    def open_loop(self, bundle: Bundle, step: GraphSpec) -> Loop | None:
        """Open the step beside this denoiser, or None where nothing is won by it."""


def open_loop(bundle: Bundle, session: Session) -> Loop | None:
    """The loop of a bundle's denoiser, where backend and bundle have one."""
    denoiser = session.denoiser if isinstance(session, ConditionedSession) else session
    step = bundle.manifest.graphs.get(STEP)
    if step is None or not isinstance(denoiser, ResidentSession):
        return None
    return denoiser.open_loop(bundle, step)


def fits(denoise: GuidedDenoiser) -> bool:
    """Whether one denoiser call takes all rows."""
    return len(denoise.all_labels) <= denoise.manifest.batch


def plan_run(denoise: GuidedDenoiser, sampler: Sampler, seeds: Sequence[int]) -> Run:
    """Everything that a device must be told to draw one group of images.

    Rows lie as `guidance.run_rows` puts them: the images, then the same images without their
    labels where they are guided, then rows that nobody looks at.
    """
    manifest, images = denoise.manifest, len(seeds)
    labels: Labels = np.resize(denoise.all_labels, manifest.batch)
    program = write_program(sampler, learned_variance=manifest.learn_sigma)

    def rows_of(draw: int) -> Latent:
        noise = draw_noise(seeds, draw, manifest.latent_shape)
        return np.resize(noise, (manifest.batch, *manifest.latent_shape))

    return Run(
        latent=rows_of(START),
        program=program,
        constants=_guidance(denoise, images),
        feeds=lambda step: _feeds(denoise.session, program.timesteps[step], labels),
        noise=(lambda step: rows_of(step + 1)) if program.stochastic else None,
    )


def _guidance(denoise: GuidedDenoiser, images: int) -> dict[str, Array]:
    """Which rows guide which, and how far, on which channels."""
    manifest = denoise.manifest
    rows = np.arange(manifest.batch, dtype=np.int32) % images
    [prediction] = manifest.denoiser(manifest.precisions[0]).outputs
    scale = np.ones((1, prediction.shape[1], 1, 1), dtype=np.float32)
    scale[:, : manifest.cfg_channels] = denoise.cfg_scale
    against = rows + np.int32(images) if denoise.guided else rows
    return {"rows_with": rows, "rows_against": against, "scale": scale}


def _feeds(session: Session, timestep: float, labels: Labels) -> dict[str, Array]:
    if isinstance(session, ConditionedSession):
        return {"modulation": session.modulation([timestep] * len(labels), labels.tolist())}
    return {"timestep": np.full(len(labels), timestep, dtype=np.float32), "label": labels}
