"""How a value shows itself in Python: a title and a few named lines of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence

WIDE, NAMES = 80, 11  # columns: of a line, and of its name with the space behind it


def shown(title: str, rows: Mapping[str, str], most: int = 2) -> str:
    """A title and under it what is known by name, cut to ``most`` lines; what is empty is left out.

    What comes from a file that somebody sent is no command to the terminal here.
    """
    lines = [_cut(_plain(title), WIDE)]
    for name, said in rows.items():
        if said:
            first = f"  {name}".ljust(NAMES)
            lines += textwrap.wrap(
                _plain(said),
                WIDE,
                initial_indent=f"{first} ",
                subsequent_indent=" " * (NAMES + 1),
                max_lines=most,
                placeholder=" …",
            )
    return "\n".join(lines)


def listed(names: Iterable[object], most: int = 12) -> str:
    """The first of several, and how many more there are."""
    all_of_them = [str(name) for name in names]
    more = len(all_of_them) - most
    return ", ".join(all_of_them[:most]) + (f", … {more} more" if more > 0 else "")


def sides(shape: Sequence[int]) -> str:
    """``1 x 28 x 28``."""
    return " x ".join(map(str, shape))


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else "�" for letter in text)


def _cut(text: str, columns: int) -> str:
    return text if len(text) <= columns else f"{text[: columns - 1]}…"
