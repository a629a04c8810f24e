"""A bar for runs in Python: in a terminal and in a notebook; elsewhere nothing is shown."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Advance = Callable[[int], None]
"""Called with the steps of images that were taken since the last time."""


@contextlib.contextmanager
def progress_bar(steps: int, *, shown: bool) -> Iterator[Advance]:
    """Show on stderr, or in the notebook's cell, how many of ``steps`` are done while it runs.

    Args:
        steps: Of all images together.
        shown: Whether it is asked for.
    """
    if not shown:
        yield lambda taken: None
    elif _in_a_notebook():
        yield _in_a_cell(steps)
    elif sys.stderr.isatty():
        with _on_a_terminal(steps) as advance:
            yield advance
    else:
        yield lambda taken: None


@contextlib.contextmanager
def _on_a_terminal(steps: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=steps)
        yield lambda taken: progress.advance(task, taken)


def _in_a_cell(steps: int) -> Advance:
    """A bar of HTML, which needs no widgets."""
    display: Any = sys.modules["IPython"].display
    bar = _Bar(0, steps)
    shown = display.display(bar, display_id=True)

    def advance(taken: int) -> None:
        bar.done += taken
        shown.update(bar)

    return advance


@dataclass
class _Bar:
    """What a notebook shows of a run."""

    done: int
    steps: int

    def __repr__(self) -> str:
        return f"{self.done}/{self.steps} steps"

    def _repr_html_(self) -> str:
        return f'<progress value="{self.done}" max="{self.steps}"></progress> {self!r}'


def _in_a_notebook() -> bool:
    """Whether the code runs in a cell of one: IPython is there then, and draws in a browser."""
    ipython: Any = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return type(shell).__name__ in {"ZMQInteractiveShell", "Shell"}  # Jupyter's, Colab's
