"""What a command reads: files and folders, never a pipe that could be waited for without an end."""

from __future__ import annotations

import os
import stat
from typing import Any

import click

from .. import OptionError


def check_input(ctx: click.Context, option: click.Parameter, given: Any) -> Any:
    """Refuse a pipe, socket or device before it is opened; what is not there is told later."""
    for path in given if isinstance(given, tuple) else (given,):
        if path is not None and _is_special(path):
            raise OptionError(
                f"{path} is no file or folder", "Write what it gives to a file, and name that"
            )
    return given


def _is_special(path: str | os.PathLike[str]) -> bool:
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)
