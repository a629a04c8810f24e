"""A bundle, a backend and a sampler in one object: labels and seeds in, images out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import OptionError
from .backend import Backend, Session, SessionOptions
from .backends import AUTO as AUTO_BACKEND
from .backends import Choice, choose_backend, load_backend
from .bundle.folder import Bundle, open_bundle
from .bundle.manifest import CONDITIONER, GraphSpec, Manifest
from .decoder import Decode, TiledDecoder
from .devices.engine_check import engines_here
from .sampling.conditioning import ConditionedSession
from .sampling.device_run import Loop, fits, open_loop, plan_run
from .sampling.guidance import GuidedDenoiser, Labels, run_rows
from .sampling.loop import walk
from .sampling.noise import MAX_SEED
from .sampling.sampler import Latent, Sampler
from .sampling.samplers import AUTO, default_sampler, make_sampler

if TYPE_CHECKING:
    from PIL.Image import Image

OnStep = Callable[[int], None]
"""Called after each step with the number of images that it moved."""


@dataclass(frozen=True)
class Settings:
    """How images are sampled.

    Attributes:
        steps: Denoiser calls for an image, from 1 to the model's training steps.
        sampler: ``ddim``, ``ddpm`` or ``dpmpp_2m``; ``euler`` or ``heun`` for a flow; ``auto`` is
            the first that fits the model.
        cfg_scale: Guidance scale; 1 is none.
        eta: DDIM's share of fresh noise, in [0, 1].
    """

    steps: int = 50
    sampler: str = AUTO
    cfg_scale: float = 4.0
    eta: float = 0.0

    def __post_init__(self) -> None:
        if not np.isfinite(self.cfg_scale) or self.cfg_scale < 0:
            raise OptionError(
                f"The guidance scale is {self.cfg_scale}", "Choose a number of at least 0"
            )


@dataclass(frozen=True)
class Samples:
    """What a run drew.

    Attributes:
        latents: float32 [image, channel, row, column].
        latent_space: ``pixel`` where the latents are the images.
        decode: The bundle's decoder, where it has one.
    """

    latents: Latent
    latent_space: str
    decode: Decode | None = None

    @property
    def images(self) -> list[Image]:
        """The pictures.

        Raises:
            OptionError: The latents are a VAE's, and the bundle has no decoder.
            NonFiniteError: The decoder left the finite numbers.
        """
        return list(self.pictures())

    def pictures(self) -> Iterator[Image]:
        """The pictures in order, each as soon as it is decoded; raises what `images` raises."""
        from .image import to_images

        if self.latent_space == "pixel":
            yield from to_images(self.latents)
        elif self.decode is None:
            raise OptionError(
                "This bundle has no decoder, so its latents cannot be shown",
                "Export it again with `--vae DIR`, or save `.latents` and decode them with the "
                "model's VAE",
            )
        else:
            for pixels in self.decode(self.latents):
                yield from to_images(pixels)


class Pipeline:
    """Draws images from an opened denoiser.

    Any `Session` with the denoiser's inputs and outputs serves, PyTorch's too: that is how both
    sides of a comparison run the same loop on the same noise.
    """

    def __init__(
        self,
        manifest: Manifest,
        session: Session,
        precision: str,
        decode: Decode | None = None,
        loop: Loop | None = None,
        chosen: Choice | None = None,
    ) -> None:
        self.manifest = manifest
        self.session = session
        self.precision = precision
        self.decode = decode
        self.loop = loop
        self.chosen = chosen

    @property
    def gives_pictures(self) -> bool:
        """Whether its samples can be shown: they are pixels, or there is a decoder."""
        return self.manifest.latent_space == "pixel" or self.decode is not None

    @classmethod
    def from_bundle(
        cls,
        bundle: Path | str,
        *,
        backend: str = "auto",
        precision: str | None = None,
        options: SessionOptions | None = None,
    ) -> Pipeline:
        """Open a bundle's denoiser, and its decoder when the first latent is to be shown.

        Args:
            bundle: The folder that ``pitstop export`` made.
            backend: A name, or ``auto``.
            precision: ``fp32``, ``fp16``, ...; None takes the most exact that there is.
            options: Execution provider and threads.

        Raises:
            PitstopError: The bundle is broken, or what was asked for is not to be had here.
        """
        opened = open_bundle(bundle)
        precision = precision or opened.manifest.precisions[0]
        options = options or SessionOptions()
        engines = engines_here(opened, precision) if backend == AUTO_BACKEND else ()
        chosen = choose_backend(backend, options, engines=engines)
        loaded = chosen.backend
        session = open_denoiser(opened, precision, loaded, options)
        decode = open_decoder(opened, precision, beside(loaded), options)
        loop = open_loop(opened, session)
        return cls(opened.manifest, session, precision, decode, loop, chosen)

    def __call__(
        self,
        labels: Sequence[int | str],
        *,
        seeds: Sequence[int] | None = None,
        steps: int = Settings.steps,
        sampler: str = Settings.sampler,
        cfg_scale: float = Settings.cfg_scale,
        eta: float = Settings.eta,
        on_step: OnStep | None = None,
    ) -> Samples:
        """Draw one image for each label.

        Args:
            labels: Classes, by number or by the names in the manifest.
            seeds: One for each image, in [0, 2**64); by default 0, 1, 2, ...
            steps: Denoiser calls for an image.
            sampler: ``ddim``, ``ddpm`` or ``dpmpp_2m``; ``euler`` or ``heun`` for a flow.
            cfg_scale: Guidance scale; 1 is none.
            eta: DDIM's share of fresh noise, in [0, 1].
            on_step: Told of every step.

        Raises:
            OptionError: A label, sampler or number that does not exist.
            NonFiniteError: A latent left the finite numbers.
        """
        settings = Settings(steps, sampler, cfg_scale, eta)
        classes = [self.manifest.label_index(label) for label in labels]
        seeds = _check_seeds(range(len(labels)) if seeds is None else seeds, len(labels))
        parts = [
            self._draw(classes[group], seeds[group], settings, on_step or (lambda moved: None))
            for group in self.groups(len(labels), settings)
        ]
        return Samples(np.concatenate(parts), self.manifest.latent_space, self.decode)

    def groups(self, images: int, settings: Settings) -> list[slice]:
        """How ``images`` are shared out so that each group takes one denoiser call a step."""
        rows = 1 if settings.cfg_scale == 1.0 else 2
        size = max(1, self.manifest.batch // rows)
        return [slice(start, min(start + size, images)) for start in range(0, images, size)]

    def walk(
        self, classes: Sequence[int], seeds: Sequence[int], settings: Settings
    ) -> Iterator[Latent]:
        """Draw one group of images together, giving their latents after every step.

        Args:
            classes: A class for each image.
            seeds: One for each image.
            settings: How they are sampled.
        """
        denoise, sampler = self._prepare(classes, settings)
        return walk(denoise, sampler, seeds, self.manifest.latent_shape)

    def _draw(
        self, classes: Sequence[int], seeds: Sequence[int], settings: Settings, on_step: OnStep
    ) -> Latent:
        """The last latents of one group, kept on the device on their way where it can."""
        if self.loop is not None:
            denoise, sampler = self._prepare(classes, settings)
            if fits(denoise):
                run = plan_run(denoise, sampler, seeds)
                latent = self.loop.sample(run, lambda: on_step(len(seeds)))[: len(seeds)]
                if np.isfinite(latent).all():
                    return latent
                on_step = _untold  # what follows is told by its error
        for latent in self.walk(classes, seeds, settings):
            on_step(len(latent))
        return latent

    def _prepare(
        self, classes: Sequence[int], settings: Settings
    ) -> tuple[GuidedDenoiser, Sampler]:
        sampler = self.sampler(settings)
        denoise = GuidedDenoiser(self.session, self.manifest, classes, settings.cfg_scale)
        if isinstance(self.session, ConditionedSession):
            self.session.prepare(sampler.schedule.timesteps.tolist(), denoise.all_labels)
        return denoise, sampler

    def trajectories(
        self,
        classes: Sequence[int],
        seeds: Sequence[int],
        settings: Settings,
        on_step: OnStep | None = None,
    ) -> Latent:
        """Draw images and keep every step: float32 [step, image, channel, row, column]."""
        groups = []
        for group in self.groups(len(seeds), settings):
            latents = []
            for latent in self.walk(classes[group], seeds[group], settings):
                latents.append(latent)
                if on_step:
                    on_step(len(latent))
            groups.append(np.stack(latents))
        return np.concatenate(groups, axis=1)

    def sampler(self, settings: Settings) -> Sampler:
        """The rule that ``settings`` names, on this model's schedule."""
        return make_sampler(
            settings.sampler, self.manifest.schedule, settings.steps, eta=settings.eta
        )

    def settle(self, settings: Settings) -> Settings:
        """``settings`` with the sampler's own name in the place of ``auto``."""
        if settings.sampler != AUTO:
            return settings
        return dataclasses.replace(settings, sampler=default_sampler(self.manifest.schedule))

    def predict(self, latent: Latent, timestep: float, labels: Labels) -> Latent:
        """Ask the denoiser once, without guidance: its raw output for each row."""
        return run_rows(self.session, self.manifest.batch, latent, timestep, labels)


def open_denoiser(
    bundle: Bundle, precision: str, backend: Backend, options: SessionOptions
) -> Session:
    """Open a bundle's denoiser, with its conditioner where it was split."""

    def open_graph(backend: Backend, spec: GraphSpec) -> Session:
        return backend.open_graph(bundle.path(spec.path), spec, options)

    denoiser = open_graph(backend, bundle.manifest.denoiser(precision))
    spec = bundle.manifest.graphs.get(CONDITIONER)
    if spec is None:
        return denoiser
    other = beside(backend)
    return ConditionedSession(lambda: open_graph(other, spec), spec, denoiser)


def beside(backend: Backend) -> Backend:
    """What runs the graphs outside the loop, which are asked once and get no engine."""
    return load_backend("onnxruntime") if backend.NEEDS_ENGINE else backend


def open_decoder(
    bundle: Bundle, precision: str, backend: Backend, options: SessionOptions
) -> TiledDecoder | None:
    """The decoder that goes with a denoiser's precision, where the bundle has one."""
    spec = bundle.manifest.decoder(precision)
    if spec is None:
        return None
    path = bundle.path(spec.path)
    return TiledDecoder(lambda: backend.open_graph(path, spec, options), spec, bundle.manifest)


def _untold(moved: int) -> None:
    """Nobody is told of these steps."""


def _check_seeds(seeds: Sequence[int], images: int) -> Sequence[int]:
    if not images:
        raise OptionError("No labels were given", "Give one label for each image")
    if len(seeds) != images:
        raise OptionError(
            f"{len(seeds)} seeds were given for {images} labels", "Give one seed for each label"
        )
    for seed in seeds:
        if not 0 <= seed <= MAX_SEED:
            raise OptionError(f"The seed is {seed}", f"Choose one from 0 to {MAX_SEED}")
    return seeds
