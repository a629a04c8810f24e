"""No command waits for a pipe in the place of a file."""

import os
from pathlib import Path

import pytest
from cli_helpers import refused

COMMANDS = [
    ("inspect",),
    ("export", "--out", "o"),
    ("generate",),
    ("build", "--backend", "tensorrt"),
    ("calibrate",),
    ("compare",),
    ("bench",),
    ("forecast",),
    ("serve",),
    ("evaluate",),
    ("evaluate", "."),
    ("evaluate", ".", "--weights"),
    ("generate", "toy", "--latents"),
    ("generate", "toy", "--init"),
    ("generate", "toy", "--mask"),
    ("export", "dit-s-2", "--out", "o", "--vae"),
    ("calibrate", "toy", "--set"),
    ("calibrate", "toy", "--ranges"),
    ("compare", "toy", "--checkpoint"),
    ("compare", "toy", "--classifier"),
    ("bench", "toy", "--checkpoint"),
    ("forecast", "toy", "--router"),
    ("serve", "toy", "--token"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_pipe_is_refused_before_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")

    line = refused(*command, "pipe")

    assert "pipe is no file or folder" in line
    assert "Write what it gives to a file" in line
