from __future__ import annotations

import io
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_helpers import FakeSession, toy_manifest
from device_helpers import DEVICES, bundle_with_step, open_on

from pitstop import OptionError, Pipeline, Step
from pitstop.runtime import progress_bar


@pytest.fixture
def fake() -> Pipeline:
    return Pipeline(toy_manifest(batch=2), FakeSession(), "fp32")


def test_a_callback_is_told_step_count_timestep_and_latents(fake: Pipeline) -> None:
    told: list[Step] = []

    drawn = fake([0, 1], steps=3, cfg_scale=1.0, callback=told.append)

    assert [(one.step, one.count) for one in told] == [(1, 3), (2, 3), (3, 3)]
    assert [one.timestep for one in told] == [666.0, 333.0, 0.0]
    assert told[0].images == range(2)
    np.testing.assert_array_equal(told[-1].latents, drawn.latents)
    assert drawn.stopped_after is None


def test_a_callback_draws_nothing_else(fake: Pipeline) -> None:
    plain = fake([0, 1, 2], steps=3)

    np.testing.assert_array_equal(
        fake([0, 1, 2], steps=3, callback=lambda step: None).latents, plain.latents
    )


def test_latents_of_a_callback_cannot_be_written_to(fake: Pipeline) -> None:
    def spoil(step: Step) -> None:
        step.latents[:] = 0

    with pytest.raises(ValueError, match="read-only"):
        fake([0], steps=3, callback=spoil)


def test_a_callback_that_returns_true_stops_the_run_with_the_latents_so_far(
    fake: Pipeline,
) -> None:
    seen: list[Step] = []

    def stop(step: Step) -> bool:
        seen.append(step)
        return step.images.start == 1 and step.step == 2

    drawn = fake([0, 1, 2], seeds=[5, 6, 7], steps=4, callback=stop)

    assert len(seen) == 4 + 2  # guidance takes both rows: an image is a group
    assert (drawn.stopped_after, len(drawn)) == (2, 2)
    assert (drawn.seeds, drawn.labels) == ((5, 6), ("shirt", "shoe"))
    np.testing.assert_array_equal(drawn.latents[1:], seen[-1].latents)
    assert "after step 2" in repr(drawn)


def test_numpys_truth_stops_too_and_another_answer_is_refused(fake: Pipeline) -> None:
    assert fake([0], steps=3, callback=lambda step: np.bool_(step.step > 1)).stopped_after == 2

    with pytest.raises(OptionError, match=r"callback returned \{\}\. Return True to stop"):
        fake([0], steps=3, callback=lambda step: {})  # type: ignore[arg-type, return-value]


def test_a_bar_shows_nothing_where_nobody_sees_it(
    fake: Pipeline, capfd: pytest.CaptureFixture[str]
) -> None:
    fake([0], steps=3, progress=True)

    assert capfd.readouterr() == ("", "")


def test_a_bar_is_drawn_in_a_terminal(fake: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")

    fake([0, 1], steps=3, progress=True)

    assert "6/6" in terminal.getvalue()


def test_a_bar_is_drawn_in_a_notebook_without_widgets(
    fake: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []

    class ZMQInteractiveShell: ...

    def display(shown: Any, *, display_id: bool) -> Any:
        drawn.append(shown._repr_html_())
        return types.SimpleNamespace(update=lambda bar: drawn.append(bar._repr_html_()))

    ipython: Any = types.ModuleType("IPython")
    ipython.get_ipython = ZMQInteractiveShell
    ipython.display = types.SimpleNamespace(display=display)
    monkeypatch.setitem(sys.modules, "IPython", ipython)

    fake([0, 1], steps=3, progress=True)

    assert drawn[0].startswith('<progress value="0" max="6">')
    assert drawn[-1] == '<progress value="6" max="6"></progress> 6/6 steps'


def test_the_bar_counts_the_steps_of_all_images(fake: Pipeline) -> None:
    with progress_bar.progress_bar(4, shown=False) as advance:
        advance(4)


@pytest.mark.parametrize("where", DEVICES)
def test_on_a_device_a_callback_sees_and_stops_as_on_the_host(tmp_path: Path, where: str) -> None:
    bundle = bundle_with_step(tmp_path / "toy", toy_manifest(batch=4, split=True))
    host = Pipeline.from_bundle(tmp_path / "toy", backend="onnxruntime")
    seen: dict[str, list[Step]] = {"host": [], where: []}

    def stop_at_3(told: list[Step]) -> Callable[[Step], bool]:
        return lambda step: told.append(step) or step.step == 3

    with Pipeline.of(open_on(where.removesuffix(" on the device"), bundle)) as device:
        assert device.loop.keeps_latents
        whole = device([0, 1], steps=5)
        stopped = device([0, 1], steps=5, callback=stop_at_3(seen[where]))
        again = device([0, 1], steps=5)
    host([0, 1], steps=5, callback=stop_at_3(seen["host"]))

    assert (stopped.stopped_after, len(seen[where])) == (3, 3)
    np.testing.assert_array_equal(stopped.latents, seen[where][-1].latents)
    np.testing.assert_array_equal(again.latents, whole.latents)
    for there, here in zip(seen[where], seen["host"], strict=True):
        assert (there.step, there.timestep) == (here.step, here.timestep)
        np.testing.assert_allclose(there.latents, here.latents, rtol=0, atol=1e-5)
