"""One turn, timed by a clock that only moves when it is read or when a session runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from bundle_helpers import FakeSession, toy_manifest, write_bundle
from device_helpers import bundle_with_step, open_on

from pitstop.evaluation.speed.bench import make_row, notes_of
from pitstop.evaluation.speed.contender import Contender
from pitstop.evaluation.speed.open_contender import open_contender
from pitstop.evaluation.speed.timed_run import (
    Ready,
    Step,
    TimedRun,
    TimedSession,
    forecast_note,
    time_run,
)
from pitstop.runtime.backend import SessionOptions
from pitstop.runtime.backends import import_backend
from pitstop.runtime.bundle.folder import open_bundle
from pitstop.runtime.bundle.manifest import CONDITIONER
from pitstop.runtime.sampling import step_table
from pitstop.runtime.sampling.conditioner import Conditioner
from pitstop.runtime.session import Array

READING = 1.0  # seconds that the clock moves when it is read


class Clock:
    """A clock under the test's control: real time would make every figure here a guess."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += READING
        return self.now


class SlowSession(FakeSession):
    """The toy denoiser, with a time of its own for each call."""

    def __init__(self, clock: Clock, seconds: list[float]) -> None:
        super().__init__()
        self.clock = clock
        self.seconds = iter(seconds)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self.clock.now += next(self.seconds)
        return super().run(feeds)


def test_calls_and_steps_are_told_apart_in_the_same_trajectory() -> None:
    clock = Clock()
    opened = Ready(toy_manifest(), "fp32", SlowSession(clock, [7.0, 4.0, 9.0]))

    turn = time_run(opened, 3, clock)

    # A reading before the call, one behind it, one at the end of the step.
    assert turn.steps == (Step(10.0, (8.0,)), Step(7.0, (5.0,)), Step(12.0, (10.0,)))
    assert turn.loop == 29.0
    assert (turn.conditioner, turn.decoder) == (None, None)


def test_a_step_that_is_forecast_has_no_call_and_counts_as_outside() -> None:
    clock = Clock()
    opened = Ready(toy_manifest(), "fp32", SlowSession(clock, [7.0, 4.0, 9.0]), calls=3)

    turn = time_run(opened, 4, clock)
    row = make_row("row", Contender(Path("toy"), "onnxruntime", "fp32", calls=3), opened, [turn])

    assert "no forecast was fitted" in forecast_note(opened, 4)
    assert [step.calls for step in turn.steps] == [(8.0,), (), (5.0,), (10.0,)]
    assert row.call.median == pytest.approx(7500)
    assert turn.overhead == pytest.approx(1 - 15 / (1 + 7 + 12))


def test_the_table_of_a_forecast_is_written_in_the_first_turn_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = bundle_with_step(tmp_path / "toy", toy_manifest(batch=2))
    graphs, written = open_on("onnxruntime", bundle), 0
    moves = step_table._moves

    def counting(*asked: object) -> object:
        nonlocal written
        written += 1
        return moves(*asked)  # type: ignore[arg-type]

    monkeypatch.setattr(step_table, "_moves", counting)
    opened = Ready(
        bundle.manifest, "fp32", graphs.denoiser, device_loop=graphs.loop, bundle=bundle, calls=3
    )
    for _ in range(3):
        time_run(opened, 4)

    assert written == 1


def test_the_first_step_does_not_count_for_the_overhead() -> None:
    turn = TimedRun(None, (Step(100.0, (1.0,)), Step(10.0, (9.0,)), Step(10.0, (8.0,))), None)

    assert turn.settled == turn.steps[1:]
    assert turn.overhead == pytest.approx(0.15)


def test_a_guided_image_that_takes_two_calls_has_both_in_its_step() -> None:
    clock = Clock()
    opened = Ready(toy_manifest(batch=1), "fp32", SlowSession(clock, [3.0, 2.0, 6.0, 5.0]))

    turn = time_run(opened, 2, clock)

    assert [step.calls for step in turn.steps] == [(4.0, 3.0), (7.0, 6.0)]
    assert turn.overhead == pytest.approx(3 / 16)  # three readings outside the calls


@pytest.mark.parametrize(
    ("batch", "null_class", "images"), [(1, True, 1), (4, True, 2), (5, True, 2), (4, False, 4)]
)
def test_a_group_is_what_fits_into_a_guided_call(batch: int, null_class: bool, images: int) -> None:
    clock = Clock()
    session = SlowSession(clock, [1.0] * 4)
    opened = Ready(toy_manifest(batch=batch, null_class=null_class), "fp32", session)

    time_run(opened, 2, clock)

    assert opened.images_of(5) == images
    assert (opened.settings.cfg_scale == 1.0) is not null_class


def test_conditioner_and_decoder_are_timed_anew_in_every_turn(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "toy", toy_manifest(split=True))
    opened = open_contender(Contender(folder, "onnxruntime", "fp32", SessionOptions(threads=1)))
    bundle, backend = open_bundle(folder), import_backend("onnxruntime")
    asked = []

    def decode(latents: Array) -> Iterator[Array]:
        asked.append(latents)
        yield latents

    def open_conditioner() -> TimedSession:
        clock.now += 20.0
        graph = bundle.graph(CONDITIONER)
        return TimedSession(backend.open_graph(graph, SessionOptions(threads=1)), clock)

    clock = Clock()
    conditioner = Conditioner(open_conditioner, bundle.manifest.graphs[CONDITIONER])
    whole = dataclasses.replace(opened, conditioner=conditioner, decode=decode)
    turns = [time_run(whole, 3, clock) for _ in range(2)]

    # 6 pairs of step and label go into a conditioner of 4 rows twice, with two readings each.
    assert [turn.conditioner for turn in turns] == [25.0, 25.0]
    assert [turn.decoder for turn in turns] == [1.0, 1.0]
    assert np.isfinite(asked[0]).all()


def test_a_contender_survives_the_way_to_another_process(tmp_path: Path) -> None:
    contender = Contender(tmp_path, "torch compile", "bf16", SessionOptions(None, 3), "mine.pt")

    assert Contender.from_json(contender.to_json()) == contender


def test_where_the_latents_stay_on_the_device_a_call_is_a_step(tmp_path: Path) -> None:
    """What `generate` runs there is timed: its loop does not come back between call and step."""
    bundle = bundle_with_step(tmp_path / "toy", toy_manifest(batch=2, split=True))
    graphs = open_on("onnxruntime", bundle)
    opened = Ready(
        bundle.manifest, "fp32", graphs.denoiser, graphs.conditioner, graphs.loop, graphs.decode
    )

    turn = time_run(opened, 4)

    assert [step.calls for step in turn.steps] == [()] * 4
    assert turn.overhead is None
    contender = Contender(tmp_path, "onnxruntime", "fp32")
    row = make_row("toy", contender, opened, [turn])
    assert row.call == row.step
    assert row.loop_overhead is None


def test_an_interval_that_leaves_the_device_has_its_calls_timed_and_says_so(tmp_path: Path) -> None:
    bundle = bundle_with_step(tmp_path / "toy", toy_manifest(batch=4, split=True))
    graphs = open_on("onnxruntime", bundle)
    everywhere, inside = (
        Ready(
            bundle.manifest,
            "fp32",
            graphs.denoiser,
            graphs.conditioner,
            graphs.loop,
            cfg_interval=interval,
        )
        for interval in (None, "0:400")
    )

    assert {len(step.calls) for step in time_run(everywhere, 10).steps} == {0}
    assert [len(step.calls) for step in time_run(inside, 10).steps] == [1] * 5 + [2] * 5

    assert notes_of("whole", everywhere, 10) == []
    [note] = notes_of("toy, 0:400", inside, 10)
    assert note.startswith("toy, 0:400 is drawn by the host's loop, not on the device: where it is")


def test_the_saving_of_a_guidance_interval_is_in_the_loops_calls() -> None:
    clock = Clock()
    everywhere, inside = (
        Ready(toy_manifest(batch=4), "fp32", SlowSession(clock, [10.0] * 100), cfg_interval=one)
        for one in (None, "0:400")
    )

    whole, saved = (time_run(one, 10, clock) for one in (everywhere, inside))

    assert (everywhere.images_of(10), inside.images_of(10)) == (2, 4)
    assert sum(len(step.calls) for step in whole.steps) == 10  # of two images
    assert sum(len(step.calls) for step in saved.steps) == 15  # of four
