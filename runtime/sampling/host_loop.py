"""The loop on the host: the denoiser is called, and NumPy does the rest.

It draws whatever there is, and is what every other loop is held against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ... import NonFiniteError
from ..bundle.manifest import LATENT, PREDICTION, Manifest
from ..session import Array, Session
from .conditioner import Conditioner, Feeder, Plain
from .guidance.guide import guide
from .loop import OnStep
from .request import Request
from .sampler import ChoosesCalls, Latent, Memory, Prediction
from .step_table import NotLinear, step_table


class HostLoop:
    """A denoiser on whatever backend, its rows packed into calls of the traced batch."""

    keeps_latents = False

    def __init__(
        self, manifest: Manifest, session: Session, conditioner: Conditioner | None = None
    ) -> None:
        """Take an opened denoiser.

        Args:
            manifest: What it was traced for.
            session: With the inputs latent, and what ``conditioner`` makes; without one, latent,
                timestep and the conditions.
            conditioner: Asked before a run.
        """
        self._manifest, self._session, self._conditioner = manifest, session, conditioner

    def why_not(self, requests: Sequence[Request]) -> str | None:
        return "this backend has no loop of its own"

    def draw(
        self, requests: Sequence[Request], on_step: OnStep, *, look: bool = False
    ) -> list[Latent]:
        ways = [self.join(request) for request in requests]
        for step in range(max(request.end for request in requests)):
            moving = [way for way in ways if way.request.start <= step < way.request.end]
            self.step(moving)
            on_step([way.latent for way in ways] if look else ())
        return [way.latent for way in ways]

    def join(self, request: Request) -> Way:
        """A request at its beginning, which `step` takes on."""
        asks = asked_steps(request, self._manifest)
        return Way(request, self._manifest, self._feeder(request, asks), asks)

    def step(self, ways: Sequence[Way]) -> None:
        """Take each request one step on, all rows that ask the denoiser in shared calls."""
        asking = [way for way in ways if way.asks]
        answers = dict(zip(map(id, asking), self.ask(asking), strict=True))
        for way in ways:
            way.take(answers.get(id(way)))

    def ask(self, asking: Sequence[Way]) -> list[Latent]:
        """The denoiser's output for the rows of each request, for `Way.take`."""
        if not asking:
            return []
        output = run_rows(
            self._session, self._manifest.batch, _together([way.feeds() for way in asking])
        )
        return np.split(output, np.cumsum([way.rows for way in asking])[:-1])

    def _feeder(self, request: Request, asks: Sequence[bool]) -> Feeder:
        if self._conditioner is None:
            return Plain()
        timesteps = request.sampler.schedule.timesteps[np.array(asks)]
        return self._conditioner.prepare(timesteps.tolist(), request.told)


class Way:
    """A request on its way: its latents, and what its rule remembers."""

    def __init__(
        self, request: Request, manifest: Manifest, feeder: Feeder, asks: Sequence[bool]
    ) -> None:
        self.request, self._manifest, self._feeder, self._asks = request, manifest, feeder, asks
        self._memory: Memory = ()
        self._index = 0
        noise = request.start_noise(manifest.latent_shape, manifest.noise)
        self.latent = request.begin_from(noise)
        masked = request.init is not None and request.init.mask is not None
        self._noise_to_keep = noise if masked else None  # a mask asks for it after each step

    @property
    def taken(self) -> int:
        """How many steps it took."""
        return self._index

    @property
    def ended(self) -> bool:
        """Whether its images are whole."""
        return self._index == self.request.steps

    @property
    def asks(self) -> bool:
        """Whether the next step asks the denoiser."""
        return self._asks[self._index]

    @property
    def rows(self) -> int:
        """Of its next step's call."""
        return len(self.request.told_at(self._index))

    def feeds(self) -> dict[str, Array]:
        """What the next step feeds the denoiser, by name, [row, ...]."""
        timestep = float(self.request.sampler.schedule.timesteps[self._index])
        told = self.request.told_at(self._index)
        guided = len(told) > len(self.latent)
        latent = np.concatenate([self.latent, self.latent]) if guided else self.latent
        return {LATENT: latent, **self._feeder.rows([timestep] * len(told), told)}

    def take(self, output: Latent | None) -> None:
        """Take the next step with what the denoiser said of the rows, where it was asked.

        Raises:
            NonFiniteError: The latents left the finite numbers.
        """
        request = self.request
        with np.errstate(over="ignore", invalid="ignore"):  # told below, in one line
            prediction = (
                self._nothing_said()
                if output is None
                else guide(output, self._manifest, request.scale(self._index), request.cfg_channels)
            )
            self.latent, self._memory = request.sampler.step(
                self._index, self.latent, prediction, self._noise(), self._memory
            )
        if not np.isfinite(self.latent).all():
            raise self._not_finite()
        self._index += 1
        self._keep()

    def _keep(self) -> None:
        """Put back what a mask keeps of an image."""
        init, schedule, noise = (
            self.request.init,
            self.request.sampler.schedule,
            self._noise_to_keep,
        )
        if init is not None and noise is not None:
            self.latent = init.keep(self.latent, schedule, self._index, noise)

    def _noise(self) -> Latent | None:
        request = self.request
        if not request.sampler.stochastic:
            return None
        manifest = self._manifest
        return request.fresh_noise(self._index, manifest.latent_shape, manifest.noise)

    def _nothing_said(self) -> Prediction:
        nothing = np.zeros_like(self.latent)
        return Prediction(nothing, nothing if self._manifest.learn_sigma else None)

    def _not_finite(self) -> NonFiniteError:
        schedule = self.request.sampler.schedule
        return NonFiniteError(
            f"Step {self._index + 1} of {schedule.steps} (timestep "
            f"{schedule.timesteps[self._index]:g}) gave a latent that is not finite",
            "Try `--precision fp32` and a lower `--cfg-scale`; `pitstop compare` shows where "
            "the bundle leaves PyTorch",
        )


def run_rows(session: Session, batch: int, feeds: Mapping[str, Array]) -> Latent:
    """Run as many calls of the traced batch as the rows need, the last row filling up the last one.

    Args:
        session: The denoiser.
        batch: Rows that it was traced for.
        feeds: By name, each [row, ...].

    Returns:
        The raw prediction, float32 [row, output channel, row, column].
    """
    count = len(feeds[LATENT])
    outputs = []
    for start in range(0, count, batch):
        rows = np.minimum(np.arange(start, start + batch), count - 1)
        call = {name: array if count == batch else array[rows] for name, array in feeds.items()}
        outputs.append(session.run(call)[PREDICTION][: count - start])
    return np.concatenate(outputs).astype(np.float32, copy=False)


def asked_steps(request: Request, manifest: Manifest) -> list[bool]:
    """Of each step whether the denoiser is asked: it is not where a rule makes nothing of it."""
    if isinstance(request.sampler, ChoosesCalls):
        return request.sampler.asks
    try:
        return step_table(request.sampler, learned_variance=manifest.learn_sigma).asks
    except NotLinear:
        return [True] * request.steps


def _together(parts: Sequence[Mapping[str, Array]]) -> Mapping[str, Array]:
    """The rows of several requests, by name."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
