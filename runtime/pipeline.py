"""A bundle, a backend and a sampler in one object: labels and seeds in, images out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import OptionError
from .backend import SessionOptions
from .backends import AUTO as AUTO_BACKEND
from .backends import Choice
from .bundle.folder import Bundle, open_bundle
from .bundle.forecasts import Chosen, choose_plan, read_forecasts, taylor_for_a_part
from .bundle.manifest import LATENT, Manifest
from .decoder import Decode, TiledDecoder
from .diffusers_words import DiffusersWords, in_our_words
from .encoder import Encode
from .init_picture import init_of, refuse_alone, taken_as_it_is
from .opened import OpenedBundle, open_denoiser
from .progress_bar import progress_bar
from .samples import Samples
from .sampling.asked import as_labels, as_latents, as_seeds, check_conditions
from .sampling.callback import Callback, Stopped, Telling
from .sampling.condition import Condition, unstack
from .sampling.conditioner import Conditioner, Plain
from .sampling.forecast.fitted import Forecast
from .sampling.forecast.forecasting import Forecasting
from .sampling.guidance.scales import pays_to_pack, scales_of
from .sampling.host_loop import HostLoop, run_rows
from .sampling.init import Init, strength_of
from .sampling.loop import Loop
from .sampling.own_sampler import OwnSampler, own_sampler, refuse_beside
from .sampling.request import Request
from .sampling.sampler import Latent, Sampler
from .sampling.samplers import sampler_for, samplers_for, settled
from .sampling.settings import Settings
from .session import Array, Closing, Session
from .shown import listed, shown, sides

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .init_picture import Picture

OnStep = Callable[[int], None]
"""Called after each step with the number of images that it moved."""


class Pipeline(Closing):
    """Draws images from an opened denoiser.

    Any `Session` with the denoiser's inputs and outputs serves, PyTorch's too: that is how both
    sides of a comparison run the same loop on the same noise. It may be shared between threads,
    and is closed by `close` or by ``with``.
    """

    def __init__(
        self,
        manifest: Manifest,
        session: Session,
        precision: str,
        *,
        conditioner: Conditioner | None = None,
        loop: Loop | None = None,
        decode: Decode | None = None,
        encode: Encode | None = None,
        chosen: Choice | None = None,
        bundle: Bundle | None = None,
    ) -> None:
        """Take a denoiser that is open.

        Args:
            manifest: What it was traced for.
            session: The denoiser.
            precision: Of its graph.
            conditioner: Makes what it is fed beside the latent, where the graph was split.
            loop: From noise to latents; by default the host's.
            decode: From latents to pixels, where there is a decoder.
            encode: From pixels to latents, where there is an encoder.
            chosen: The backend, and why it was taken.
            bundle: Whose forecasts are drawn by, where fewer calls than steps are asked for.
        """
        self.manifest = manifest
        self.session = session
        self.precision = precision
        self.conditioner = conditioner
        self.loop: Loop = loop or HostLoop(manifest, session, conditioner)
        self.decode, self.encode = decode, encode
        self.chosen = chosen
        self._bundle = bundle
        self._forecasts: list[Forecast] | None = None  # read when they are asked for
        self._samplers: dict[tuple[Settings, float], Sampler] = {}

    def __repr__(self) -> str:
        manifest = self.manifest
        there = listed(manifest.precisions)
        return shown(
            f"Pipeline: {manifest.model.name}, {self.precision}, {self.session.device}",
            {
                "draws": f"{sides(manifest.latent_shape)} "
                + ("pixels" if manifest.latent_space == "pixel" else "latents of a VAE")
                + ("" if self.gives_pictures else ", which no decoder here shows"),
                "batch": f"{manifest.batch} rows a call; guidance takes two for an image",
                "labels": f"{len(self.labels)}: {listed(self.labels)}",
                "samplers": listed(self.samplers),
                "precision": f"{self.precision}, of {there}" if there else self.precision,
                "backend": "" if self.chosen is None else f"{self.chosen.name} {self.chosen.why}",
                "draw": "pipeline([label], seeds=[0], steps=50).images",
            },
        )

    @property
    def labels(self) -> list[str]:
        """The classes in order: their names, or their numbers where they have none."""
        label = self.manifest.label
        return [label.called(index) for index in range(label.classes)]

    @property
    def samplers(self) -> list[str]:
        """The names that `sampler` takes with this model."""
        return samplers_for(self.manifest)

    def close(self) -> None:
        """Give the denoiser's and the decoder's memory back; a second time does nothing."""
        self.session.close()
        if isinstance(self.decode, TiledDecoder):
            self.decode.close()
        if self.conditioner is not None:
            self.conditioner.close()

    @property
    def gives_pictures(self) -> bool:
        """Whether its samples can be shown: they are pixels, or there is a decoder."""
        return self.manifest.latent_space == "pixel" or self.decode is not None

    @classmethod
    def from_bundle(
        cls,
        bundle: Path | str,
        *,
        backend: str = AUTO_BACKEND,
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
        return cls.of(
            open_denoiser(open_bundle(bundle, every_file=False), precision, backend, options)
        )

    @classmethod
    def of(cls, opened: OpenedBundle) -> Pipeline:
        """Draw from a bundle that is open; closing the pipeline closes it."""
        return cls(
            opened.bundle.manifest,
            opened.denoiser,
            opened.precision,
            conditioner=opened.conditioner,
            loop=opened.loop,
            decode=opened.decode,
            encode=opened.encode,
            chosen=opened.chosen,
            bundle=opened.bundle,
        )

    def __call__(
        self,
        labels: Sequence[int | str] | None = None,
        *,
        seeds: Sequence[int] | None = None,
        steps: int | None = None,
        sampler: str | Sampler = Settings.sampler,
        cfg_scale: float | None = None,
        eta: float = Settings.eta,
        spacing: str = Settings.spacing,
        calls: int | None = None,
        cfg_interval: str | None = None,
        cfg_schedule: str | None = None,
        cfg_channels: int | str | None = None,
        shift: float | str | None = None,
        noise: str | None = None,
        latents: Array | None = None,
        init: Init | Picture | None = None,
        strength: float | None = None,
        mask: Picture | None = None,
        on_step: OnStep | None = None,
        callback: Callback | None = None,
        progress: bool = False,
        **words: Unpack[DiffusersWords],
    ) -> Samples:
        """Draw one image for each label.

        Args:
            labels: Classes, by number or by the names in the manifest.
            seeds: One for each image, in [0, 2**64); by default 0, 1, 2, ...
            steps: Of the run; by default 50, or those of a sampler object's schedule.
            sampler: A name among `samplers`, or an object of one's own that is as
                `runtime.sampling.sampler.Sampler` says. An object is drawn through the host.
            cfg_scale: Guidance scale; 1 is none, by default 4.
            eta: DDIM's share of fresh noise, in [0, 1].
            spacing: ``leading``, ``linspace``, ``trailing`` or ``official``.
            calls: Steps that call the denoiser; the others are forecast. None for all.
            cfg_interval: Where the run is guided, ``LOW:HIGH`` or ``sigma:LOW:HIGH``; it and the
                next four are those of `Settings`.
            cfg_schedule: ``linear``, ``power-cosine`` or ``power-cosine:POWER``.
            cfg_channels: A number, or ``all``.
            shift: A number, ``dynamic`` or ``dynamic:BASE:MAX``.
            noise: ``torch``.
            latents: The noise to start from, float32 [image, channel, row, column], of variance
                1, as diffusers takes it; None for that of the seeds.
            init: A picture that all images begin with: its file, or Pillow's. What `begin_with`
                made of one serves too.
            strength: The share of the steps that it is drawn through, in (0, 1]; by default 0.8,
                and 1 with a mask.
            mask: White where the picture is drawn anew, black where it is kept.
            on_step: Called after every step with the number of images that it moved.
            callback: Told of every step as a `Step`; one that returns True stops the run, and the
                latents so far are what is returned. A device's loop hands it the latents through
                the host.
            progress: Show a bar in a terminal or a notebook.
            words: Those of diffusers that mean the same: ``class_labels``,
                ``num_inference_steps`` and ``guidance_scale``.

        Raises:
            OptionError: A label, sampler or number that does not exist, or a word of diffusers
                that has another name here.
            NonFiniteError: A latent left the finite numbers.
        """
        labels, steps, cfg_scale = in_our_words(words, labels, steps, cfg_scale)
        own = None
        if not isinstance(sampler, str):
            own = own_sampler(sampler, self.manifest.schedule)
            refuse_beside(own, steps, eta=eta, spacing=spacing, calls=calls, shift=shift, init=init)
            steps, sampler = own.schedule.steps, own.name
        steps = Settings.steps if steps is None else steps
        cfg_scale = Settings.cfg_scale if cfg_scale is None else cfg_scale
        guidance = (cfg_interval, cfg_schedule, cfg_channels)
        settings = Settings(
            steps, sampler, cfg_scale, eta, spacing, calls, *guidance, shift=shift, noise=noise
        )
        label = self.manifest.label
        classes = [label.index(one) for one in as_labels(labels)]
        seeds = as_seeds(range(len(classes)) if seeds is None else seeds, len(classes))
        begun = self.begin_with(init, strength, mask)
        telling = None if callback is None else Telling(callback)
        taken = self.steps(settings, begun) if own is None else own.schedule.steps
        with progress_bar(taken * len(classes), shown=progress) as advance:
            drawn = self.draw(
                [label.told(index) for index in classes],
                seeds,
                settings,
                _each(advance, on_step),
                latents=latents,
                init=begun,
                own=own,
                telling=telling,
            )
        return Samples(
            drawn,
            self.manifest.latent_space,
            self.decode,
            tuple(seeds[: len(drawn)]),
            tuple(label.called(index) for index in classes[: len(drawn)]),
            settings if own else self.settle(settings),
            None if telling is None else telling.stopped_after,
        )

    def begin_with(
        self,
        picture: Init | Picture | None,
        strength: float | None = None,
        mask: Picture | None = None,
    ) -> Init | None:
        """What runs begin with, of a picture or of what this made of one; None where there is none.

        Raises:
            OptionError: Picture, mask or strength is none that a run can begin with.
            BundleError: The bundle has no encoder for it.
        """
        if picture is None:
            refuse_alone(strength, mask)
            return None
        if isinstance(picture, Init):
            return taken_as_it_is(picture, self.manifest, strength, mask)
        return init_of(self.manifest, self.encode, picture, strength, mask)

    def draw(
        self,
        conditions: Sequence[Condition],
        seeds: Sequence[int],
        settings: Settings,
        on_step: OnStep | None = None,
        *,
        latents: Array | None = None,
        init: Init | None = None,
        own: OwnSampler | None = None,
        telling: Telling | None = None,
    ) -> Latent:
        """Draw one image for each condition: float32 [image, channel, row, column].

        Where ``telling`` stops the run, what is drawn so far, without the groups to come.
        """
        parts: list[Latent] = []
        for request in self.requests(conditions, seeds, settings, latents, init, own):
            tell = _telling(on_step, request.images)
            if telling is None:
                parts += self.loop.draw([request], tell)
                continue
            tell_both = _both(tell, telling.of(request, sum(map(len, parts))))
            try:
                parts += self.loop.draw([request], tell_both, look=True)
            except Stopped as stopped:
                parts.append(stopped.latents)
                break
        return np.concatenate(parts)

    def trajectories(
        self,
        conditions: Sequence[Condition],
        seeds: Sequence[int],
        settings: Settings,
        on_step: OnStep | None = None,
    ) -> Latent:
        """As `draw`, with every step: float32 [step, image, channel, row, column]."""
        parts = [
            self._walk(request, _telling(on_step, request.images))
            for request in self.requests(conditions, seeds, settings)
        ]
        return np.concatenate(parts, axis=1)

    def _walk(self, request: Request, tell: Callable[[Sequence[Latent]], None]) -> Latent:
        """One request's latents after every step."""
        walked: list[Latent] = []

        def look(latents: Sequence[Latent]) -> None:
            walked.extend(latents)
            tell(latents)

        self.loop.draw([request], look, look=True)
        return np.stack(walked)

    def requests(
        self,
        conditions: Sequence[Condition],
        seeds: Sequence[int],
        settings: Settings,
        latents: Array | None = None,
        init: Init | None = None,
        own: OwnSampler | None = None,
    ) -> list[Request]:
        """What is asked of the loop, one after the other.

        Raises:
            OptionError: A seed, a setting or a latent that is none.
        """
        check_conditions(conditions)
        seeds = as_seeds(seeds, len(conditions))
        if latents is not None:
            latents = as_latents(latents, len(seeds), self.manifest.latent_shape)
        sampler = self.sampler(settings, init) if own is None else own
        scales, channels = self._scales(settings, init, own), self._cfg_channels(settings)
        return [
            Request(
                seeds[group],
                conditions[group],
                sampler,
                settings.cfg_scale,
                self.manifest.untold if settings.guided else None,
                scales=scales,
                cfg_channels=channels,
                noise=settings.noise,
                latents=None if latents is None else latents[group],
                init=init,
            )
            for group in self._groups(len(seeds), settings, scales)
        ]

    def groups(self, images: int, settings: Settings, init: Init | None = None) -> list[slice]:
        """How ``images`` are shared out so that each group takes one denoiser call a step.

        Where it pays, each of an interval's unguided steps takes one call, each guided one two.
        """
        return self._groups(images, settings, self._scales(settings, init))

    def _groups(
        self, images: int, settings: Settings, scales: tuple[float, ...] | None
    ) -> list[slice]:
        packed = settings.cfg_interval is not None and pays_to_pack(scales or (), self.loop)
        rows = 2 if settings.guided and not packed else 1
        size = max(1, self.manifest.batch // rows)
        return [slice(start, min(start + size, images)) for start in range(0, images, size)]

    def _scales(
        self, settings: Settings, init: Init | None, own: OwnSampler | None = None
    ) -> tuple[float, ...] | None:
        """The guidance scale of each step; None where all are alike."""
        if not settings.guidance_varies:
            return None
        rule = own or self._rule(settings, init)
        return scales_of(settings, rule.schedule, self.manifest.schedule)

    def _changes(self, settings: Settings, init: Init | None) -> list[int]:
        """The steps at which an interval of guidance begins or ends."""
        if settings.cfg_interval is None:
            return []
        guided = [scale != 1.0 for scale in self._scales(settings, init) or ()]
        return [step for step in range(1, len(guided)) if guided[step] != guided[step - 1]]

    def _cfg_channels(self, settings: Settings) -> int | None:
        """How many channels are guided, where that is said."""
        said, there = settings.cfg_channels, self.manifest.latent_shape[0]
        if said is None or isinstance(said, str):
            return None if said is None else there
        if said > there:
            raise OptionError(
                f"Guidance of {said} channels was asked for, and a latent has {there}",
                f"Choose at most {there}, or 'all'",
            )
        return said

    def sampler(self, settings: Settings, init: Init | None = None) -> Sampler:
        """The rule that ``settings`` names, on this model's schedule; the same each time."""
        chosen, rule = self.forecast(settings, init), self._rule(settings, init)
        if chosen is None:
            return rule
        key = self.settle(settings), strength_of(init)
        return self._samplers.setdefault(key, Forecasting(rule, chosen.plan))

    def forecast(self, settings: Settings, init: Init | None = None) -> Chosen | None:
        """What stands in where the denoiser is not called, and what to say of it; or None.

        Raises:
            BundleError: A forecast in the bundle is broken, or of another denoiser.
        """
        if settings.calls is None:
            return None
        left, changes = self.steps(settings, init), self._changes(settings, init)
        if left < settings.steps:
            return taylor_for_a_part(settings, left, changes)
        if self._forecasts is None:
            self._forecasts = [] if self._bundle is None else read_forecasts(self._bundle)
        return choose_plan(self._forecasts, self.settle(settings), changes)

    def steps(self, settings: Settings, init: Init | None = None) -> int:
        """Of a run: all of them, or the last ones where it begins with an image."""
        return self._rule(settings, init).schedule.steps

    def _rule(self, settings: Settings, init: Init | None) -> Sampler:
        """The rule itself, which calls at each of its steps."""
        return sampler_for(self.manifest, settings, strength_of(init))

    def settle(self, settings: Settings) -> Settings:
        """``settings`` with the names of sampler and spacing in the place of ``auto``."""
        return settled(self.manifest, settings)

    def predict(self, latent: Latent, timestep: float, conditions: Mapping[str, Array]) -> Latent:
        """Ask the denoiser once, without guidance: its raw output for each row.

        Args:
            latent: float32 [row, channel, row, column].
            timestep: The same for all rows.
            conditions: What each row is told, by name, [row, ...].
        """
        told = unstack(conditions)
        feeder = Plain() if self.conditioner is None else self.conditioner.prepare([timestep], told)
        feeds = {LATENT: latent, **feeder.rows([timestep] * len(latent), told)}
        return run_rows(self.session, self.manifest.batch, feeds)


def _telling(on_step: OnStep | None, images: int) -> Callable[[Sequence[Latent]], None]:
    """What tells of a step of a request, whoever looks."""
    return lambda latents: None if on_step is None else on_step(images)


def _each(*tells: OnStep | None) -> OnStep:
    """All that are there, one after the other."""

    def tell(images: int) -> None:
        for each in tells:
            if each is not None:
                each(images)

    return tell


def _both(*tells: Callable[[Sequence[Latent]], None]) -> Callable[[Sequence[Latent]], None]:
    """One after the other."""

    def tell(latents: Sequence[Latent]) -> None:
        for each in tells:
            each(latents)

    return tell
