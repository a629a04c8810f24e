"""The fields of a manifest, each of the type that is expected or refused with what it has."""

from __future__ import annotations

import math
from typing import Any, TypeVar, cast

T = TypeVar("T")


def a_count(value: object, name: str, *, least: int = 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} has {value!r} where a number of at least {least} is expected")
    return value


def a_number(content: dict[str, Any], name: str, default: float) -> float:
    value = content.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{name} has {value!r} where a finite number is expected")
    return float(value)


def a_text(value: object, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} has {value!r} where text is expected")
    return value


def one_of(content: dict[str, Any], name: str, values: tuple[T, ...]) -> T:
    if content[name] not in values:
        raise ValueError(f"{name} is {content[name]!r}, not one of {values}")
    return cast(T, content[name])
