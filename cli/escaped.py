"""Text of others, such as labels and keys of a file, made harmless for a terminal."""

from __future__ import annotations

import unicodedata

# Those that reorder what stands around them ("Trojan Source", CVE-2021-42574).
BIDIRECTIONAL = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}


def escaped(text: str, *, one_line: bool = False) -> str:
    r"""Text whose control characters and lone surrogates are written out, ``\x1b`` for Escape.

    Args:
        text: Whatever it says.
        one_line: Write ends of lines out too.
    """
    if text.isprintable():
        return text
    kept = set() if one_line else {"\n", "\t"}
    return "".join(
        character if character in kept or not _moves(character) else _written(character)
        for character in text
    )


def _moves(character: str) -> bool:
    """Whether a terminal does something else with it than show it."""
    return ord(character) in BIDIRECTIONAL or unicodedata.category(character) in {
        "Cc",
        "Cs",
        "Zl",
        "Zp",
    }


def _written(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
