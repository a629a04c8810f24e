from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from bundle_helpers import toy_manifest, write_bundle
from rich.console import Console

from pitstop.cli import progress
from pitstop.cli.progress import Bar, Lines, Stages, duration

NOTHING_IS_SHORT = "import pitstop.cli.progress as p; p.LONG = 0.0; from pitstop.cli import main; "


class FakeClock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def lines(clock: FakeClock) -> Stages:
    return Stages(Lines(clock), clock)


def drawn(bar: Bar) -> str:
    """What a terminal of 80 columns shows of a bar."""
    console = Console(width=80, file=io.StringIO())
    with console.capture() as capture:
        console.print(bar.progress.get_renderable())
    return capture.get().rstrip()


def test_a_line_is_said_every_ten_seconds_with_what_is_left(
    lines: Stages, clock: FakeClock, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = lines("drawing 64 trajectories", 64, 50)

    for seconds in range(1, 41):
        clock.now = 100.0 + seconds
        moved(15)
        lines.look()

    assert capsys.readouterr() == (
        "",
        "drawing 64 trajectories: 3 of 64, 0:03:23 left\n"
        "drawing 64 trajectories: 6 of 64, 0:03:13 left\n"
        "drawing 64 trajectories: 9 of 64, 0:03:03 left\n"
        "drawing 64 trajectories: 12 of 64, 0:02:53 left\n",
    )


def test_a_stage_without_a_number_tells_how_long_it_has_run(
    lines: Stages, clock: FakeClock, capsys: pytest.CaptureFixture[str]
) -> None:
    lines("tracing")
    clock.now += 12
    lines.look()
    clock.now += 3
    lines.end()

    assert capsys.readouterr().err == "tracing, 0:00:12\ntracing, done in 0:00:15\n"


def test_before_its_first_step_a_stage_tells_how_long_it_has_run(
    lines: Stages, clock: FakeClock, capsys: pytest.CaptureFixture[str]
) -> None:
    lines("drawing 8 images", 8, 50)
    clock.now += 11
    lines.look()

    assert capsys.readouterr().err == "drawing 8 images: 0 of 8, 0:00:11\n"


def test_stages_that_are_short_say_nothing_but_ten_seconds_of_them_do(
    lines: Stages, clock: FakeClock, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(11):
        lines(f"pass {number}")
        clock.now += 1
        lines.look()
    lines.end()

    assert capsys.readouterr().err == "pass 9, 0:00:01\n"


def test_the_next_stage_ends_the_one_before_it(
    lines: Stages, clock: FakeClock, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = lines("drawing 2 images", 2)
    clock.now += 3
    moved(2)
    lines("writing")
    lines.end()

    assert capsys.readouterr().err == "drawing 2 images: 2 of 2, done in 0:00:03\n"


def test_no_text_of_others_moves_a_cursor_or_starts_a_line(
    lines: Stages, clock: FakeClock, capsys: pytest.CaptureFixture[str]
) -> None:
    lines("opening a\x1b[2J\nb")
    clock.now += 5
    lines.end()

    assert capsys.readouterr().err == r"opening a\x1b[2J\nb, done in 0:00:05" + "\n"
    bar = Bar(clock, Console(file=io.StringIO(), width=80))
    Stages(bar, clock)("opening a\x1b[2J\nb")
    assert r"opening a\x1b[2J\nb" in drawn(bar)


def test_a_bar_shows_what_the_count_and_the_time_left(clock: FakeClock) -> None:
    bar = Bar(clock, Console(file=io.StringIO(), width=80))
    stages = Stages(bar, clock)

    moved = stages("drawing 64 trajectories", 64, 50)
    first = drawn(bar)
    clock.now += 30
    moved(12 * 50)
    later = drawn(bar)
    stages("writing the int8 denoiser")
    clock.now += 5
    without = drawn(bar)

    assert "drawing 64 trajectories" in first
    assert "0/64" in first
    assert "None" not in first + later + without
    assert "12/64" in later
    assert "0:02:10 left" in later
    assert "━" in later
    assert "━" not in without
    assert "/" not in without
    assert "0:00:05" in without


def test_a_long_name_leaves_the_figures_whole_on_a_terminal_of_80_columns(
    clock: FakeClock,
) -> None:
    bar = Bar(clock, Console(file=io.StringIO(), width=80))
    Stages(bar, clock)("opening " + 12 * "a/folder/", 1000, 50)(50)
    clock.now += 1

    [line] = drawn(bar).splitlines()

    assert "1/1000" in line
    assert " left" in line
    assert len(line) <= 80


def test_a_long_stage_keeps_its_line_on_a_terminal_and_a_short_one_none(clock: FakeClock) -> None:
    shown = io.StringIO()
    stages = Stages(Bar(clock, Console(file=shown, width=80)), clock)

    stages("drawing 64 trajectories", 64)(64)
    clock.now += 192
    stages("writing")
    clock.now += 1.9
    stages.end()

    assert shown.getvalue() == "drawing 64 trajectories  64/64  0:03:12\n"


def test_durations_have_hours_minutes_and_seconds() -> None:
    assert [duration(s) for s in (0.4, 59.6, 192, 3600 * 30 + 61)] == [
        "0:00:00",
        "0:01:00",
        "0:03:12",
        "30:01:01",
    ]


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "toy", toy_manifest(split=True))


def generate(toy: Path, tmp_path: Path, setting: str = NOTHING_IS_SHORT) -> list[str]:
    options = ["--num", "2", "--steps", "3", "--json", str(tmp_path / "figures.json")]
    command = ["generate", str(toy), *options, "--out", str(tmp_path / "out")]
    return [sys.executable, "-c", f"{setting} main({command!r})"]


def test_where_stderr_is_a_pipe_stages_are_plain_lines_and_stdout_is_clean(
    toy: Path, tmp_path: Path
) -> None:
    done = subprocess.run(generate(toy, tmp_path), capture_output=True, text=True, check=True)

    assert done.stderr.splitlines() == [
        f"opening {toy}, done in 0:00:00",
        "drawing 2 images: 2 of 2, done in 0:00:00",
    ]
    assert done.stdout.startswith("images")
    assert "done in" not in done.stdout


def test_lines_come_while_a_stage_has_nothing_to_tell_of_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.02)
    monkeypatch.setattr(progress, "LOOK", 0.01)
    said = threading.Event()
    echo = progress.click.echo

    def heard(line: str, **how: bool) -> None:
        echo(line, **how)
        said.set()

    monkeypatch.setattr(progress.click, "echo", heard)
    with progress.shown_stages() as on_stage:
        on_stage("tracing")
        assert said.wait(10)

    assert capsys.readouterr().err.startswith("tracing, 0:00:00\n")
    assert "stages" not in [thread.name for thread in threading.enumerate()]


def test_work_goes_on_where_nobody_reads_any_more(toy: Path, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)

    done = subprocess.run(
        generate(toy, tmp_path), stdout=subprocess.PIPE, stderr=writing, check=True
    )
    os.close(writing)

    assert b"2 drawn" in done.stdout


def test_a_terminal_keeps_the_lines_and_never_shows_none(toy: Path, tmp_path: Path) -> None:
    shown, code = on_a_terminal(generate(toy, tmp_path))

    assert code == 0
    assert "drawing 2 images  2/2  0:00:00" in shown
    assert "None" not in shown


def on_a_terminal(command: list[str]) -> tuple[str, int]:
    """What a command writes to a terminal, and its exit code."""
    terminal, inside = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    child = subprocess.Popen(command, stdout=inside, stderr=inside, env=env)
    os.close(inside)
    shown = b""
    while part := _read(lambda: os.read(terminal, 1 << 16)):
        shown += part
    os.close(terminal)
    return shown.decode(), child.wait()


def _read(read: Callable[[], bytes]) -> bytes:
    """Linux ends a terminal whose other side was closed with an error."""
    try:
        return read()
    except OSError:
        return b""
