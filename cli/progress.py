"""What users see while they wait: a bar on a terminal, elsewhere a line now and then.

A stage that took long keeps a line with its time. All of it goes to stderr.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import click
from rich.console import Console, RenderableType
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.progress_bar import ProgressBar
from rich.table import Column
from rich.text import Text

from ..runtime.stage import Moved, OnStage
from .escaped import escaped
from .printing import messages

LONG = 2.0  # seconds of a stage that is worth a line when it ends
EVERY = 10.0  # seconds from one plain line to the next
LOOK = 0.5  # seconds between looks at whether one is due
BAR = 16  # columns of a terminal
FIGURES = BAR + 26  # columns of all but a stage's name

Clock = Callable[[], float]


@dataclass
class Stage:
    """A stage that runs, in seconds of a clock that only its differences mean something of.

    Attributes:
        what: It does, in a few words.
        parts: How many things it does; 0 where that is not known.
        steps: That each of them takes.
        started: When it began.
        moved: Steps that were taken.
    """

    what: str
    parts: int
    steps: int
    started: float
    moved: int = 0

    @property
    def all_steps(self) -> int:
        return self.parts * self.steps

    def count(self, between: str) -> str:
        """How many parts are done, and of how many; empty where that is not known."""
        return f"{self.moved // self.steps}{between}{self.parts}" if self.parts else ""

    def time(self, now: float) -> str:
        """What is left of it as it went so far, or else how long it has run."""
        if not self.all_steps or not self.moved:
            return duration(now - self.started)
        left = max(0, self.all_steps - self.moved) / self.moved * (now - self.started)
        return f"{duration(left)} left"


class Display(Protocol):
    """Where stages are shown."""

    def begin(self, stage: Stage) -> None:
        """Show a stage that begins."""

    def look(self, stage: Stage) -> None:
        """Show how far it is."""

    def keep(self, stage: Stage, took: str) -> None:
        """Leave a line of a stage that ended."""


class Lines:
    """Plain lines, never more than ten seconds without one: for files, pipes and logs."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._said = clock()

    def begin(self, stage: Stage) -> None: ...

    def look(self, stage: Stage) -> None:
        now = self._clock()
        if now - self._said >= EVERY - LOOK:
            self._say(f"{_named(stage)}, {stage.time(now)}")

    def keep(self, stage: Stage, took: str) -> None:
        self._say(f"{_named(stage)}, done in {took}")

    def _say(self, line: str) -> None:
        self._said = self._clock()
        with contextlib.suppress(OSError):  # nobody reads any more; the work goes on
            click.echo(line, err=True)


def _named(stage: Stage) -> str:
    count = stage.count(" of ")
    return f"{stage.what}: {count}" if count else stage.what


class Bar:
    """A bar on a terminal, with the lines of what took long above it."""

    def __init__(self, clock: Clock, console: Console) -> None:
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn(
                "{task.description}",
                markup=False,
                table_column=Column(
                    no_wrap=True, overflow="ellipsis", max_width=max(20, console.width - FIGURES)
                ),
            ),
            _KnownSteps(),
            _Figure(lambda stage: stage.count("/")),
            _Figure(lambda stage: stage.time(clock())),
            console=console,
            transient=True,
        )

    def begin(self, stage: Stage) -> None:
        for before in self.progress.task_ids:
            self.progress.remove_task(before)
        self.progress.add_task(stage.what, stage=stage)

    def look(self, stage: Stage) -> None: ...  # it draws itself

    def keep(self, stage: Stage, took: str) -> None:
        parts = [part for part in (stage.what, stage.count("/"), took) if part]
        self.progress.console.print("  ".join(parts), soft_wrap=True)


class _KnownSteps(ProgressColumn):
    """A bar for a stage that tells how many steps it takes; nothing for others."""

    def render(self, task: Task) -> RenderableType:
        stage: Stage = task.fields["stage"]
        if not stage.parts:
            return Text()
        return ProgressBar(total=stage.all_steps, completed=stage.moved, width=BAR)


class _Figure(ProgressColumn):
    """Something of the stage, as text that is never cut."""

    def __init__(self, figure: Callable[[Stage], str]) -> None:
        super().__init__(Column(no_wrap=True, justify="right"))
        self._figure = figure

    def render(self, task: Task) -> RenderableType:
        return Text(self._figure(task.fields["stage"]), style="dim")


class Stages:
    """An `OnStage` that shows what it is told, one stage after another."""

    def __init__(self, display: Display, clock: Clock) -> None:
        self._display = display
        self._clock = clock
        self._stage: Stage | None = None

    def __call__(self, what: str, parts: int = 0, steps: int = 1) -> Moved:
        self.end()
        what = escaped(what, one_line=True)
        stage = self._stage = Stage(what, parts, max(1, steps), self._clock())
        self._display.begin(stage)

        def moved(count: int) -> None:
            stage.moved += count

        return moved

    def look(self) -> None:
        if self._stage is not None:
            self._display.look(self._stage)

    def end(self) -> None:
        """Let the stage that runs, if one does, leave its line."""
        stage, self._stage = self._stage, None
        if stage is not None and (seconds := self._clock() - stage.started) >= LONG:
            self._display.keep(stage, duration(seconds))


@contextlib.contextmanager
def shown_stages() -> Iterator[OnStage]:
    """Show the stages of the block on stderr; one that fails leaves no line."""
    clock = time.monotonic
    with contextlib.ExitStack() as shown:
        if messages.is_interactive and messages.file.isatty():
            bar = Bar(clock, messages)
            stages = Stages(bar, clock)
            shown.enter_context(bar.progress)
        else:
            stages = Stages(Lines(clock), clock)
            shown.enter_context(_looking(stages))
        yield stages
        stages.end()


@contextlib.contextmanager
def _looking(stages: Stages) -> Iterator[None]:
    """Look at the stages all the time: a long one may have nothing to tell of itself."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(LOOK):
            stages.look()

    thread = threading.Thread(target=look, name="stages", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, such as ``0:03:12``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
