"""Which images share a call, who joins when, and who leaves first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from bundle_helpers import toy_manifest

from pitstop import OptionError
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.host_loop import HostLoop
from pitstop.runtime.sampling.settings import Settings
from pitstop.runtime.session import Array
from pitstop.server.batcher import Batcher
from pitstop.server.guard import is_local
from pitstop.server.job import Drawn, Event, Failed, Job


class Counting:
    """A denoiser that keeps how many rows of each call were somebody's, by their labels."""

    device = "fake"

    def __init__(self) -> None:
        self.labels: list[list[int]] = []
        self.may = threading.Event()

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        assert self.may.wait(30)
        self.labels.append(feeds["label"].tolist())
        return {"prediction": np.zeros_like(feeds["latent"])}

    def close(self) -> None:
        """There is nothing to give back."""


class Table:
    """A batcher of a toy model of four rows a call, and what became of its jobs, in order."""

    def __init__(self, batching: str) -> None:
        manifest = toy_manifest(batch=4)
        self.session = Counting()
        self.loop = HostLoop(manifest, self.session)  # type: ignore[arg-type]
        self.pipeline = Pipeline(manifest, self.session, "fp32", loop=self.loop)  # type: ignore[arg-type]
        self.calls: list[int] = []
        self.ended: list[tuple[str, Event]] = []
        self.batcher = Batcher(
            self.loop, 4, batching=batching, on_call=lambda rows, _: self.calls.append(rows)
        )

    def add(self, name: str, label: int, **settings: object) -> None:
        told = self.pipeline.manifest.label.told(label)
        chosen = Settings(**{"cfg_scale": 1.0, **settings})  # type: ignore[arg-type]
        requests = self.pipeline.requests([told], [0], chosen)
        self.batcher.submit(Job(requests, lambda event: self.ended.append((name, event))))

    def draw(self) -> list[str]:
        """Let the denoiser answer until all is done; the names in the order of their ends."""
        self.batcher.start()
        self.session.may.set()
        while self.batcher.waiting or self.batcher.in_flight:
            threading.Event().wait(0.005)
        return [name for name, event in self.ended if isinstance(event, Drawn)]


@contextmanager
def table(batching: str = "step") -> Iterator[Table]:
    """All jobs that are added before `draw` are there when the first call begins."""
    one = Table(batching)
    try:
        yield one
    finally:
        one.session.may.set()
        one.batcher.close()


def test_a_short_request_does_not_wait_for_a_long_one() -> None:
    with table() as one:
        for name in "abcd":
            one.add(name, 0, steps=20)
        one.add("long", 1, steps=60)
        one.add("short", 2, steps=3)
        assert one.draw() == ["a", "b", "c", "d", "short", "long"]


def test_by_request_nobody_joins_until_all_left() -> None:
    with table("request") as one:
        one.add("long", 0, steps=10)
        one.add("short", 1, steps=3)
        for name in "abc":
            one.add(name, 2, steps=2)
        assert one.draw() == ["a", "b", "short", "long", "c"]
        assert one.calls == [4, 4, 2] + [1] * 7 + [1] * 2


def test_calls_are_filled_with_the_rows_of_any_settings() -> None:
    with table() as one:
        one.add("guided", 0, steps=10, cfg_scale=2.0)
        one.add("free", 1, steps=10, sampler="ddpm")
        one.add("other", 2, steps=10, sampler="dpmpp_2m")
        one.draw()
        assert one.calls == [4] * 10
        assert one.session.labels[0] == [0, 3, 1, 2]


def test_a_step_that_is_forecast_takes_no_call() -> None:
    with table() as one:
        one.add("few", 0, steps=12, calls=4)
        one.draw()
        assert one.calls == [1] * 4


def test_outside_the_guidance_interval_others_take_the_room() -> None:
    with table() as one:
        one.add("part", 0, steps=10, cfg_scale=2.0, cfg_interval="0:500")
        one.add("part too", 0, steps=10, cfg_scale=2.0, cfg_interval="0:500")
        one.add("a", 1, steps=4)
        one.add("b", 2, steps=4)
        one.draw()
        assert one.calls == [4] * 10


def test_a_request_that_cannot_begin_ends_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with table() as one:
        join = one.loop.join
        one.add("good", 0, steps=4)
        one.add("bad", 1, steps=7)

        def refuse(request):  # type: ignore[no-untyped-def]
            if request.steps == 7:
                raise OptionError("It is bad", "Ask for another")
            return join(request)

        monkeypatch.setattr(one.loop, "join", refuse)
        assert one.draw() == ["good"]
        [(name, event)] = [end for end in one.ended if isinstance(end[1], Failed)]
        assert (name, str(event.error)) == ("bad", "It is bad. Ask for another.")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True),
        ("localhost:8000", True),
        ("127.0.0.1:80", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]:8000", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("10.0.0.1:8000", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example:80", False),
        ("", False),
        ("::", False),
    ],
)
def test_only_names_of_this_machine_are_local(host: str, local: bool) -> None:
    assert is_local(host) is local
