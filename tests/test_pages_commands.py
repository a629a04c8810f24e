"""Every command that a page shows is one, with options that it has."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from pitstop.cli import COMMANDS, main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
INLINE = re.compile(r"(?<!`)`(pitstop [^`]+)`(?!`)")
FENCED = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OPTION = re.compile(r"(?<!\S)--?[a-z][a-z-]*")


def commands(text: str) -> list[str]:
    lines = "\n".join(FENCED.findall(text)).replace("\\\n", " ").splitlines()
    shown = [line.split("#")[0].strip() for line in lines]
    inline = [" ".join(found.split()) for found in INLINE.findall(text)]
    return [one for one in [*shown, *inline] if one.startswith("pitstop ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_one_with_options_that_it_has(page: Path) -> None:
    for shown in commands(page.read_text()):
        name = shown.split()[1]
        if not name.isidentifier():
            continue  # an option of all, or a word that stands for one
        assert name in COMMANDS, shown
        command = main.get_command(click.Context(main), name)
        assert command is not None
        known = {option for each in command.params for option in each.opts + each.secondary_opts}
        assert set(OPTION.findall(shown)) <= known | {"--help"}, shown


def test_commands_are_found() -> None:
    assert "pitstop presets" in commands((ROOT / "docs" / "glossary.md").read_text())
    assert len(commands((ROOT / "docs" / "faq.md").read_text())) > 15
