"""What the commands print with: one console, tables, and the JSON file."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .. import OptionError
from .escaped import escaped


class HarmlessConsole(Console):
    """A console on which no text of others is a command to the terminal, or markup."""

    def render_str(self, text: str, **style: Any) -> Text:
        return super().render_str(escaped(text), **style)


console = HarmlessConsole(highlight=False, soft_wrap=False, markup=False)
messages = HarmlessConsole(stderr=True, highlight=False, markup=False)


def check_place(ctx: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """Refuse a file that cannot be written before the work, not after it.

    The path is absolute then: a bundle in whose folder a command runs is moved away at the end.
    """
    if path is None:
        return None
    choose = f"Choose another file with `{option.opts[0]}`"
    if path.is_dir():
        raise OptionError(f"{path} cannot be written: it is a folder", choose)
    if path.exists() and not path.is_file():  # a rename would put a file in the device's place
        raise OptionError(f"{path} cannot be written: it is no file", choose)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OptionError(
            f"{path} cannot be written: {path.parent} is no folder that can be written to", choose
        )
    return Path(os.path.abspath(path))


json_option = click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path),
    callback=check_place,
    metavar="FILE",
    help="Write the figures to FILE as JSON.",
)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table whose first column is text and whose others are figures."""
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        drawn.add_column(column, justify="left" if index == 0 else "right", no_wrap=index > 0)
    for row in rows:
        drawn.add_row(*row)
    return drawn


def pairs(rows: Iterable[tuple[str, str]]) -> Table:
    """Names on the left, what they are on the right."""
    drawn = Table(box=None, pad_edge=False, show_header=False)
    drawn.add_column(style="bold", no_wrap=True)
    drawn.add_column(overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    return drawn


def write_json(path: Path | None, figures: Any) -> None:
    """Write one JSON object, whole or not at all; a number that is not finite becomes null.

    Raises:
        OptionError: The file cannot be written.
    """
    if path is None:
        return
    from ..runtime.figures import as_json
    from ..runtime.whole_file import whole_file

    try:
        with whole_file(path) as beside:
            beside.write_text(as_json(figures, indent=2))
    except OSError as error:
        raise OptionError(
            f"{path} cannot be written ({error.strerror or error})",
            "Choose another file with `--json`",
        ) from error


def megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def decibel(value: float) -> str:
    return "equal" if math.isinf(value) and value > 0 else f"{value:.1f} dB"
