"""Text of others, files without rights and full disks end in one plain line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bundle_helpers import toy_manifest, with_label, write_bundle
from cli_helpers import refused, run

from pitstop.cli.escaped import escaped

HOSTILE = "\x1b[31mshirt\x1b]0;title\x07"
PITSTOP = [sys.executable, "-c", "from pitstop.cli import main; main(prog_name='pitstop')"]
NOBODY = 65534  # a user without rights


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    manifest = with_label(toy_manifest(), names=(HOSTILE, "shoe", "bag"))
    return write_bundle(tmp_path / "toy", manifest)


def test_a_terminal_gets_no_command_from_a_bundles_labels(toy: Path) -> None:
    shown = run("inspect", toy)

    assert shown.exit_code == 0, shown.output
    assert "\x1b]0;" not in shown.output
    assert "\x1b[31m" not in shown.output
    assert "\\x1b[31mshirt" in shown.output.replace("\n", "")


def test_an_error_says_a_label_in_one_harmless_line(toy: Path) -> None:
    line = refused("generate", toy, "--label", "no such\r\x1b[2J", "--out", toy.parent / "out")

    assert "\x1b" not in line
    assert r"\x1b[31mshirt\x1b]0;title\x07" in line


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("plain, größer, 靴", "plain, größer, 靴"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\x9b2Jb", r"a\x9b2Jb"),
        ("half \ud83d of one", r"half \ud83d of one"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("line\u2028separator", r"line\u2028separator"),
    ],
)
def test_what_moves_a_terminal_is_written_out(text: str, wanted: str) -> None:
    assert escaped(text) == wanted
    escaped(text).encode()


def test_one_line_stays_one_line() -> None:
    assert escaped("a\nb\r\tc", one_line=True) == r"a\nb\r\tc"


def test_a_full_disk_under_standard_output_is_one_line(toy: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*PITSTOP, "inspect", str(toy)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "pitstop: standard output or a file: No space left on device. Free some space there, or "
        "write to another place."
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("closed", [".", "denoiser.fp32.onnx", "manifest.json", "engines"])
def test_what_may_not_be_read_is_one_line(toy: Path, closed: str) -> None:
    (toy / "engines").mkdir()
    (toy / closed).chmod(0)
    for folder in (*toy.parents,):  # pytest's own are closed to others
        if folder.owner() == "root" and "pytest" in str(folder):
            folder.chmod(0o755)

    run("inspect", toy)  # what is imported late is imported as root
    os.seteuid(NOBODY)
    try:
        line = refused("inspect", toy)
    finally:
        os.seteuid(0)

    assert "Permission denied" in line


def test_a_folder_whose_name_is_no_text_is_told(toy: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(toy.parent / "to") + b"\xff"))
    toy.rename(odd)

    done = subprocess.run([*PITSTOP, "inspect", odd], capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert done.stderr.endswith(r"to\udcff is not UTF-8. Rename the folder." + "\n")
