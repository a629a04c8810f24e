"""What a killed run left in the temporary folder is removed by the next one, and nothing else."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pitstop.runtime.temporary import temporary_folder

WORKING = """
import sys
from pitstop.runtime.temporary import temporary_folder

with temporary_folder() as folder:
    (folder / "graph.onnx").touch()
    print(folder, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def start() -> tuple[subprocess.Popen[str], Path]:
    """A process that works in a temporary folder until it is told something, and the folder."""
    child = subprocess.Popen(
        [sys.executable, "-c", WORKING],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    return child, Path(child.stdout.readline().strip())


def test_a_folder_is_its_owners_alone_and_goes_after_the_block(temporary: Path) -> None:
    with temporary_folder() as folder:
        assert folder.parent == temporary
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    assert list(temporary.iterdir()) == []


def test_the_next_run_removes_what_a_killed_one_left(temporary: Path) -> None:
    child, left = start()
    with child:
        child.send_signal(signal.SIGKILL)
    assert (left / "graph.onnx").exists()

    with temporary_folder() as folder:
        assert list(temporary.iterdir()) == [folder]


def test_the_folder_of_a_run_that_goes_on_and_those_of_others_stay(temporary: Path) -> None:
    others = temporary / f".pitstop-{os.getuid() + 1}.01234567.partial"
    others.mkdir()
    child, working = start()

    with child:
        with temporary_folder(), temporary_folder():
            pass
        assert (working / "graph.onnx").exists()
        child.communicate("\n")

    assert list(temporary.iterdir()) == [others]
