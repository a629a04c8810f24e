"""Figures as text: as JSON, in which a number that is not finite becomes null, and counted."""

from __future__ import annotations

import json
import math
from typing import Any


def counted(number: int, what: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def as_json(figures: Any, *, indent: int) -> str:
    """The text of a file with ``figures``: dicts, lists or tuples, text and numbers."""
    return json.dumps(_finite(figures), indent=indent, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
