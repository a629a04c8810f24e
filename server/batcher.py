"""The loop of the server: one thread takes all images in flight from step to step.

An image joins before the next call that has room for its rows, and leaves when it is whole. The
oldest go first: a call takes them in the order in which they came, as far as its rows reach. Steps
that do not ask the denoiser take no call. What one image makes wrong ends its job alone.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from .. import NonFiniteError, PitstopError
from ..runtime.sampling.host_loop import HostLoop, Way
from ..runtime.sampling.request import Request
from ..runtime.sampling.sampler import Latent
from .job import Drawn, Job, Moved
from .refused import Busy, Fault, Leaving

STEP, REQUEST = "step", "request"
BATCHINGS = (STEP, REQUEST)

OnCall = Callable[[int, float], None]
"""Told of each step's rows, and of the seconds that it took."""


class Flying:
    """An image in flight, or one that waits."""

    def __init__(self, job: Job, image: int) -> None:
        self.job, self.image = job, image
        self.way: Way | None = None

    @property
    def request(self) -> Request:
        return self.job.requests[self.image]

    @property
    def joined(self) -> Way:
        """Where it is, once it joined."""
        assert self.way is not None
        return self.way

    @property
    def rows(self) -> int:
        """That its next step asks for."""
        return len(self.request.told_at(0)) if self.way is None else self.way.rows

    @property
    def calls_left(self) -> int:
        """Rows that it asks for until it is whole, at most."""
        taken = 0 if self.way is None else self.way.taken
        return (self.request.steps - taken) * len(self.request.told)


class Batcher:
    """Draws jobs on a thread of its own, from `start` to `close`."""

    def __init__(
        self,
        loop: HostLoop,
        batch: int,
        *,
        batching: str = STEP,
        queue: int = 64,
        on_call: OnCall = lambda rows, seconds: None,
    ) -> None:
        """Take a loop.

        Args:
            loop: What moves the rows.
            batch: Rows of one call.
            batching: ``step``: an image joins at any step; ``request``: when all others left.
            queue: Jobs that may wait.
            on_call: Told of each step that asked the denoiser.
        """
        self._loop, self._batch, self._batching = loop, batch, batching
        self._queue, self._on_call = queue, on_call
        self._waiting: deque[Flying] = deque()
        self._flying: list[Flying] = []
        self._changed = threading.Condition()
        self._leaving = self._closed = False
        self._call_seconds = 0.0  # of the last calls, on average
        self._thread = threading.Thread(target=self._run, name="pitstop-batcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Let a job wait for its turn.

        Raises:
            Busy: As many wait as may.
            Leaving: The server is going.
        """
        with self._changed:
            if self._leaving:
                raise Leaving
            if len({id(one.job) for one in self._waiting}) >= self._queue:
                raise Busy(self._seconds_left())
            self._waiting.extend(Flying(job, image) for image in range(len(job.requests)))
            self._changed.notify()

    def leave(self) -> None:
        """Take no more jobs; those that were taken are drawn."""
        with self._changed:
            self._leaving = True

    def abandon(self) -> None:
        """End all jobs that are not done."""
        with self._changed:
            self._leaving = True
            for one in [*self._waiting, *self._flying]:
                one.job.fail(Leaving())
            self._changed.notify()

    def close(self) -> None:
        """End all jobs, and the thread."""
        self.abandon()
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def leaving(self) -> bool:
        return self._leaving

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Images that have not joined."""
        with self._changed:
            return len(self._waiting)

    @property
    def in_flight(self) -> int:
        """Images between their first step and their last."""
        with self._changed:
            return len(self._flying)

    def _seconds_left(self) -> float:
        """How long what there is takes, as the last calls went."""
        rows = sum(one.calls_left for one in [*self._waiting, *self._flying])
        return rows / self._batch * self._call_seconds

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting or self._flying)
                if self._closed:
                    return
                joining = self._drop_and_admit()
            for one in joining:
                self._guarded([one], partial(self._join, one))
            moving = fitting([one for one in self._flying if not _gone(one)], self._batch)
            if moving:
                self._guarded(moving, partial(self._step, moving))
            with self._changed:
                self._flying = [one for one in self._flying if not _gone(one)]

    def _drop_and_admit(self) -> list[Flying]:
        """Let go of what nobody waits for, and take in what there is room for."""
        self._waiting = deque(one for one in self._waiting if not one.job.cancelled)
        self._flying = [one for one in self._flying if not one.job.cancelled]
        joining: list[Flying] = []
        if self._batching == REQUEST and self._flying:
            return joining
        room = self._batch - sum(one.rows for one in fitting(self._flying, self._batch))
        while self._waiting and (self._waiting[0].rows <= room or not self._flying):
            one = self._waiting.popleft()
            room -= one.rows
            self._flying.append(one)
            joining.append(one)
        return joining

    def _guarded(self, those: Sequence[Flying], work: Callable[[], None]) -> None:
        """Work for some images; what goes wrong ends their jobs, and never the loop."""
        try:
            work()
        except PitstopError as error:
            for one in those:
                one.job.fail(error)
        except Exception:
            traceback.print_exc()
            for one in those:
                one.job.fail(Fault())

    def _join(self, one: Flying) -> None:
        one.way = self._loop.join(one.request)
        self._skip(one, one.way)

    def _step(self, moving: Sequence[Flying]) -> None:
        """One call for all of these, as long as the call has rows for them."""
        ways = [one.joined for one in moving]
        rows = sum(way.rows for way in ways)
        started = time.perf_counter()
        answers = self._loop.ask(ways)
        for one, way, answer in zip(moving, ways, answers, strict=True):
            try:
                self._take(one, way, answer)
                self._skip(one, way)
            except NonFiniteError as error:
                one.job.fail(error)
        seconds = time.perf_counter() - started
        self._call_seconds += (seconds - self._call_seconds) / 8
        self._on_call(rows, seconds)

    def _skip(self, one: Flying, way: Way) -> None:
        """Take the steps that do not ask the denoiser."""
        while not way.ended and not way.asks:
            self._take(one, way, None)

    def _take(self, one: Flying, way: Way, answer: Latent | None) -> None:
        way.take(answer)
        if one.job.cancelled:
            return
        if way.ended:
            one.job.tell(Drawn(one.image, way.latent))
        elif way.taken in one.job.watched:
            one.job.tell(Moved(one.image, way.taken, way.latent))


def fitting(flying: Sequence[Flying], batch: int) -> list[Flying]:
    """The oldest whose rows share a call of ``batch`` rows, and in any case the oldest."""
    taken: list[Flying] = []
    room = batch
    for one in flying:
        if one.rows <= room or not taken:
            taken.append(one)
            room -= one.rows
    return taken


def _gone(one: Flying) -> bool:
    return one.job.cancelled or (one.way is not None and one.way.ended)
