"""Run a command as a user does, in this process."""

from __future__ import annotations

import re

from click.testing import CliRunner, Result

from pitstop.cli import main

STAGE = re.compile(r", (done in )?\d+:\d\d:\d\d( left)?$")  # what is said of long stages


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refused(*arguments: object) -> str:
    """The one line on stderr of a command that must end with exit code 2."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.stderr
    [line] = without_stages(result.stderr)
    assert line.startswith("pitstop: ")
    return line


def without_stages(stderr: str) -> list[str]:
    """The lines but those of stages, which a machine that is busy takes long for."""
    return [line for line in stderr.splitlines() if not STAGE.search(line)]
