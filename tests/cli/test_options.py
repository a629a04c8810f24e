from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from pitstop.cli.options import (
    SAMPLING,
    as_value,
    hint_options,
    sampling_options,
    session_options,
    split_names,
)
from pitstop.models.format import Hints
from pitstop.runtime.backend import SessionOptions
from pitstop.runtime.sampling.settings import Settings


@dataclass(frozen=True)
class Frame:
    wide: int
    deep: int


def frame(wide: int, deep: int) -> Frame:
    click.echo("made")
    return Frame(wide, deep)


framed = as_value(
    "frame", click.option("--wide", default=2), click.option("--how-deep", "deep", default=3)
)(frame)


def ask(decorators: list[Any], *arguments: object) -> tuple[dict[str, Any], Result]:
    """What a command with these options is called with."""
    got: dict[str, Any] = {}

    def command(**values: Any) -> None:
        """Say nothing."""
        got.update(values)

    for decorator in reversed(decorators):
        command = decorator(command)
    return got, CliRunner().invoke(click.command("it")(command), list(map(str, arguments)))


def test_a_command_gets_the_value_in_the_place_of_its_options() -> None:
    got, done = ask([click.option("--first"), framed, click.option("--last")], "--how-deep", 5)

    assert done.exit_code == 0, done.output
    assert got == {"first": None, "frame": Frame(2, 5), "last": None}


def test_options_keep_their_order_and_help_makes_no_value() -> None:
    _, done = ask([click.option("--first"), framed, click.option("--last")], "--help")

    options = ["--first", "--wide", "--how-deep", "--last"]
    found = [done.output.index(option) for option in options]
    assert found == sorted(found)
    assert "Say nothing." in done.output
    assert "made" not in done.output


def test_each_of_two_groups_takes_its_own() -> None:
    got, _ = ask([framed, session_options], "--threads", 3, "--wide", 9)

    assert got == {"frame": Frame(9, 3), "options": SessionOptions(None, 3)}


def test_sampling_by_itself_is_what_the_library_does_by_itself() -> None:
    got, _ = ask([sampling_options()])

    assert got == {"settings": Settings()}
    assert list(SAMPLING) == [field.name for field in dataclasses.fields(Settings)]


def test_a_command_may_have_a_part_of_the_sampling_and_another_help() -> None:
    got, _ = ask([sampling_options("steps", "cfg_scale")], "--steps", 7, "--cfg-scale", 2)
    _, done = ask([sampling_options("steps", text="With a checkpoint.")], "--help")
    _, refused = ask([sampling_options("steps")], "--eta", 1)

    assert got == {"settings": Settings(7, cfg_scale=2.0)}
    assert "With a checkpoint.  [default: 50]" in done.output
    assert refused.exit_code == 2


def test_hints_are_none_where_nothing_is_said() -> None:
    got, _ = ask([hint_options])
    told, _ = ask([hint_options], "--format", "sit", "--heads", 4, "--classes", 9, "--amm", "off")

    assert got == {"hints": None}
    assert told == {"hints": Hints("sit", 4, 9, "off")}


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (None, ()),
        ("fp32", ("fp32",)),
        ("fp16, int8,fp16", ("fp16", "int8")),
        (("fp16,fp32", "fp32"), ("fp16", "fp32")),
        ((), ()),
    ],
)
def test_names_come_from_one_list_or_several_each_once(given: Any, names: tuple[str, ...]) -> None:
    command = click.Command("it")

    assert split_names(click.Context(command), click.Option(["--names"]), given) == names
