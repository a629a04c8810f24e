"""Values of a manifest or a set, each of the type that is expected or refused with what it is."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import numpy as np

from ..said import is_finite, shortly
from ..session import Array

T = TypeVar("T")
MOST = 2**20  # classes, channels, rows: beyond any model, and what a damaged file may claim


def a_count(value: object, name: str, *, least: int = 1, most: int = MOST) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(
            f"{name} has {shortly(value)} where a whole number from {least} to {most} is expected"
        )
    return value


def a_number(content: dict[str, Any], name: str, default: float) -> float:
    value = content.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not is_finite(value):
        raise ValueError(f"{name} has {shortly(value)} where a finite number is expected")
    return float(value)


def a_text(value: object, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} has {shortly(value)} where text is expected")
    value.encode()  # no half of a character, which nothing could print
    return value


def a_table(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} has {shortly(value)} where a table is expected")
    return value


def one_of(content: dict[str, Any], name: str, values: tuple[T, ...]) -> T:
    if content[name] not in values:
        raise ValueError(f"{name} is {content[name]!r}, not one of {values}")
    return cast(T, content[name])


def why_not_numbers(name: str, array: Array, rows: int, dtype: str, last: float) -> str | None:
    """Say why an array is not one number from 0 to ``last`` for each row, or None where it is."""
    if array.shape != (rows,) or array.dtype.kind != np.dtype(dtype).kind:
        return f"has {name} {array.dtype} {list(array.shape)}, expected {dtype} {[rows]}"
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= last):
        return f"has {name} from {low} to {high}, expected 0 to {last}"
    return None
