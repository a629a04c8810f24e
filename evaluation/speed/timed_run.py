"""One run of a benchmark: a group of images drawn once, with every part of it timed.

The loop is the runtime's own. What it spends inside the denoiser's session and what it spends
around it are told apart in the same trajectory, so that neither is taken from a quieter moment.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ...runtime.bundle.folder import Bundle
from ...runtime.bundle.manifest import Manifest
from ...runtime.decoder import Decode, TiledDecoder
from ...runtime.pipeline import Pipeline
from ...runtime.sampling.conditioner import Conditioner
from ...runtime.sampling.guidance.scales import usual_scale
from ...runtime.sampling.host_loop import HostLoop, asked_steps
from ...runtime.sampling.loop import Loop
from ...runtime.sampling.request import Request
from ...runtime.sampling.sampler import Latent
from ...runtime.sampling.settings import Settings
from ...runtime.session import Array, Session

Clock = Callable[[], float]
"""Seconds from any start."""


@dataclass(frozen=True)
class Ready:
    """A denoiser that is ready, with what runs before and after its loop.

    Attributes:
        manifest: What it was traced for.
        precision: Of its graph.
        denoiser: The graph that runs at every step.
        conditioner: The graph that runs before the loop, where there is one.
        device_loop: The loop that keeps the latents on the device, where there is one.
        decode: From latents to pixels, where there is a decoder.
        bundle: Whose forecasts are drawn by.
        calls: Steps that call the denoiser; None for all.
        cfg_interval: Where the run is guided; None for everywhere.
    """

    manifest: Manifest
    precision: str
    denoiser: Session
    conditioner: Conditioner | None = None
    device_loop: Loop | None = None
    decode: Decode | None = None
    bundle: Bundle | None = None
    calls: int | None = None
    cfg_interval: str | None = None

    def close(self) -> None:
        """Give its memory back."""
        self.denoiser.close()
        for part in (self.conditioner, self.decode):
            if isinstance(part, Conditioner | TiledDecoder):
                part.close()

    @property
    def settings(self) -> Settings:
        """Guidance where the model can be guided: that is how such models are used."""
        return Settings(cfg_scale=usual_scale(self.manifest))

    def settings_of(self, steps: int) -> Settings:
        """Of a run."""
        return dataclasses.replace(
            self.settings, steps=steps, calls=self.calls, cfg_interval=self.cfg_interval
        )

    @functools.cached_property
    def pipeline(self) -> Pipeline:
        """The same in every turn, so that a rule's table is written in the first alone."""
        return Pipeline(
            self.manifest,
            self.denoiser,
            self.precision,
            conditioner=self.conditioner,
            loop=self.device_loop,
            bundle=self.bundle,
        )

    def images_of(self, steps: int) -> int:
        """How many are drawn together in a run."""
        first, *_ = self.pipeline.groups(self.manifest.batch, self.settings_of(steps))
        return len(range(self.manifest.batch)[first])


@dataclass(frozen=True)
class Step:
    """One step of the loop, in seconds.

    Attributes:
        seconds: From the end of the step before.
        calls: Inside the denoiser's session: one, or two where guidance does not fit into one; none
            where the step is forecast, or a device's loop does not come back in between.
    """

    seconds: float
    calls: tuple[float, ...]


@dataclass(frozen=True)
class TimedRun:
    """One trajectory of a group of images, in seconds.

    Attributes:
        conditioner: Opening it, asking it for all steps, closing it; None where there is none.
        steps: The loop.
        decoder: None where there is none.
    """

    conditioner: float | None
    steps: tuple[Step, ...]
    decoder: float | None

    @property
    def settled(self) -> tuple[Step, ...]:
        """All steps but the first.

        The first finds the caches as another contender left them, and that one's threads still
        spinning.
        """
        return self.steps[1:]

    @property
    def loop(self) -> float:
        return sum(step.seconds for step in self.steps)

    @property
    def overhead(self) -> float | None:
        """Share of the settled steps' time, in [0, 1], that is outside the denoiser's session.

        None where the two are not told apart.
        """
        if not any(step.calls for step in self.settled):
            return None
        inside = sum(sum(step.calls) for step in self.settled)
        return 1 - inside / sum(step.seconds for step in self.settled)


class TimedSession:
    """A session that keeps how long each call took."""

    def __init__(self, session: Session, clock: Clock) -> None:
        self._session = session
        self._clock = clock
        self._calls: list[float] = []

    @property
    def device(self) -> str:
        return self._session.device

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        start = self._clock()
        outputs = self._session.run(feeds)
        self._calls.append(self._clock() - start)
        return outputs

    def take_calls(self) -> tuple[float, ...]:
        """Seconds of each call since this was asked last."""
        calls, self._calls = tuple(self._calls), []
        return calls

    def close(self) -> None:
        self._session.close()


def time_run(opened: Ready, steps: int, clock: Clock = time.perf_counter) -> TimedRun:
    """Draw one group of images in ``steps`` steps.

    Raises:
        NonFiniteError: A latent left the finite numbers.
    """
    timed = TimedSession(opened.denoiser, clock)
    images = opened.images_of(steps)
    told = opened.manifest.examples(images)
    [request] = opened.pipeline.requests(told, range(images), opened.settings_of(steps))
    device = _on_device(opened, request)
    loop = device or HostLoop(opened.manifest, timed, opened.conditioner)
    start = clock()
    if opened.conditioner is not None:
        opened.conditioner.forget()  # so that it is asked in every turn
        opened.conditioner.prepare(_prepared(opened, request, device), request.told)
    before = began = clock()
    taken = []

    def on_step(latents: object) -> None:
        nonlocal before
        now = clock()
        taken.append(Step(now - before, timed.take_calls()))
        before = now

    [last] = loop.draw([request], on_step)
    conditioner = None if opened.conditioner is None else began - start
    return TimedRun(conditioner, tuple(taken), _time_decoder(opened.decode, last, clock))


def host_note(opened: Ready, steps: int) -> str:
    """Why its latents leave the device, where there is one that could keep them; else empty."""
    if opened.device_loop is None:
        return ""
    images = opened.images_of(steps)
    told = opened.manifest.examples(images)
    requests = opened.pipeline.requests(told, range(images), opened.settings_of(steps))
    return opened.device_loop.why_not(requests) or ""


def forecast_note(opened: Ready, steps: int) -> str:
    """What is to be said of how its steps are forecast; empty where all of them call."""
    chosen = opened.pipeline.forecast(opened.settings_of(steps))
    return "" if chosen is None else chosen.note


def _on_device(opened: Ready, request: Request) -> Loop | None:
    """The loop that keeps its latents on the device, where it can draw it."""
    loop = opened.device_loop
    return None if loop is None or loop.why_not([request]) is not None else loop


def _prepared(opened: Ready, request: Request, device: Loop | None) -> list[float]:
    """The timesteps that the loop asks the conditioner for: a device's tables hold them all."""
    timesteps = np.asarray(request.sampler.schedule.timesteps)
    if device is None:
        timesteps = timesteps[np.array(asked_steps(request, opened.manifest))]
    return [float(timestep) for timestep in timesteps]


def _time_decoder(decode: Decode | None, latents: Latent, clock: Clock) -> float | None:
    if decode is None:
        return None
    start = clock()
    for _ in decode(latents):
        pass
    return clock() - start
