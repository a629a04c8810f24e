"""The README's commands for a checkpoint of one's own run as they are written."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
from cli_helpers import run
from format_helpers import Shape, dit_shapes, random_weights
from PIL import Image
from vae_helpers import save_kl

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SMALL = Shape(width=64, heads=1, depth=2, mlp=256)


def quickstart() -> list[list[str]]:
    """The words of each command under the line that says that they are run here."""
    [block] = re.findall(r"<!-- tests/test_readme.py runs these -->\n```sh\n(.*?)```", README, re.S)
    return [shlex.split(line, comments=True) for line in block.splitlines()]


def test_three_commands_lead_from_a_checkpoint_to_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(random_weights(dit_shapes(SMALL)), "mine.pt")
    save_kl(tmp_path / "sd-vae", blocks=4)

    commands = quickstart()
    for pitstop, *words in commands:
        assert pitstop == "pitstop"
        done = run(*words)
        assert done.exit_code == 0, (words, done.output)

    assert len(commands) == 3
    pictures = [path for path in Path("pictures").glob("*.png") if path.name != "grid.png"]
    assert len(pictures) == 4
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.size == (64, 64)
    assert "against PyTorch</title>" in Path("page.html").read_text()


@pytest.mark.parametrize(("target", "tools"), [("demo", False), ("test", True)])
def test_only_the_demo_is_installed_for_the_demo(target: str, tools: bool) -> None:
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", target],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip

    extras = re.findall(r"--editable '\.\[(.*?)\]'", done.stdout)
    assert extras[0] == "cpu,export"
    assert ("dev" in ",".join(extras)) is tools
    assert ("tensorrt-stubs" in done.stdout) is tools
    assert "1.2 GB on disk" in done.stdout
    assert "1.2 GB on disk" in README


def test_the_demo_says_the_readmes_times() -> None:
    from pitstop.cli.demo import _plan
    from pitstop.evaluation.demo import QUICK, WHOLE

    said = " ".join(README.split())
    for size, time in ((WHOLE, "about four minutes"), (QUICK, "about a minute")):
        assert time in _plan(size)
        assert time in said
